"""Verification against odd suspects and false accusers: only decisions, through the public door."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn

from tests.conftest import REPO
from tests.data.test_sources import write_parquet
from tests.ownership.test_verify import KEYS, TASK
from wmlightning import load_run
from wmlightning import make_key as make_key_of_a_project
from wmlightning.attacks.base import Arithmetic, Stolen
from wmlightning.attacks.overwrite import Overwrite, secret_of_thief
from wmlightning.data.held import HeldSource
from wmlightning.data.source import Split
from wmlightning.errors import UserError
from wmlightning.job import Job, prepare
from wmlightning.ownership.__main__ import main
from wmlightning.ownership.commitment import write_commitment
from wmlightning.ownership.key import keep_key, make_key, read_key, write_key
from wmlightning.ownership.verdict import Verdict
from wmlightning.ownership.verify import verify
from wmlightning.pipeline import train
from wmlightning.secret import Secret
from wmlightning.seeds import role_seed
from wmlightning.watermarks.base import Mark, MarkingWatermark
from wmlightning.watermarks.unrelated import Unrelated

Images = npt.NDArray[np.uint8]
Suspect = Callable[[Images], list[int]]
N_CLASSES = 10
both_ways = pytest.mark.parametrize("sequential", [True, False])


def settled(runs: Path, secret: Secret, *options: str) -> Job:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return prepare(compose("train", [f"runs_dir={runs}", *options]), secret=secret)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An owner's model, key and commitment."""
    folder = tmp_path_factory.mktemp("owner")
    job = settled(folder, Secret(b"o" * 32), *TASK, *KEYS["marks"])
    keep_key(job, folder / "owner.key")
    write_commitment(read_key(folder / "owner.key"), folder / "owner.commitment.json")
    train(job, force=False)
    job.folder.rename(folder / "model")
    return folder


@pytest.fixture
def owner(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "owner"))


@pytest.fixture
def ask(owner: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verdict]:
    """Verifies a key against a function."""

    def go(suspect: Suspect, *overrides: str, key: str = "owner", out: str = "out") -> Verdict:
        module = type(sys)("odd_suspect")
        name = f"{key}_{out}"  # another folder, another suspect
        setattr(module, name, suspect)
        monkeypatch.setitem(sys.modules, "odd_suspect", module)
        asked = [f"key={owner / key}.key", f"out={owner / out}", "suspect=callable"]
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            (verdict,) = verify(compose("verify", [*asked, f"suspect.function=odd_suspect:{name}", *overrides]))
        return verdict

    return go


def answers_of(network: nn.Module) -> Suspect:
    def answer(images: Images) -> list[int]:
        with torch.no_grad():
            return network(torch.from_numpy(images).float() / 255).argmax(1).tolist()  # type: ignore[no-any-return]

    return answer


@pytest.fixture
def stolen(owner: Path) -> Suspect:
    """The owner's model, as it is."""
    return answers_of(load_run(owner / "model").network.eval())


def every(suspect: Suspect, n: int, instead: Callable[[int], int]) -> Suspect:
    """Answers each n-th image otherwise, counted over all that it ever saw."""
    seen = 0

    def answer(images: Images) -> list[int]:
        nonlocal seen
        labels = suspect(images)
        first = seen
        seen += len(labels)
        return [instead(label) if (first + i) % n == n - 1 else label for i, label in enumerate(labels)]

    return answer


# -- suspects --------------------------------------------------------------------------------------------------------


@both_ways
def test_answers_at_random_are_not_owned(ask: Callable[..., Verdict], sequential: bool) -> None:
    for seed in range(2):
        draw = np.random.default_rng(seed)
        verdict = ask(
            lambda images, draw=draw: draw.integers(N_CLASSES, size=len(images)).tolist(),  # type: ignore[misc]
            f"sequential={sequential}",
            "queries=40",
            out=f"out{seed}",
        )
        assert verdict.decision != "owned", verdict.text()
        assert verdict.p_value > verdict.alpha


@both_ways
def test_always_one_class_is_not_owned(ask: Callable[..., Verdict], owner: Path, sequential: bool) -> None:
    """Also if it is the class of one of the marks: then a quarter of the triggers match."""
    (label, *_) = read_key(owner / "owner.key").new.labels.tolist()
    verdict = ask(lambda images: [label] * len(images), f"sequential={sequential}")
    assert verdict.matches > 0
    assert verdict.decision != "owned", verdict.text()


@both_ways
def test_a_tenth_of_the_answers_flipped_is_still_owned(
    ask: Callable[..., Verdict], stolen: Suspect, sequential: bool
) -> None:
    flipped = every(stolen, 10, lambda label: (label + 1) % N_CLASSES)
    assert ask(flipped, f"sequential={sequential}").decision == "owned"


@both_ways
def test_every_fifth_query_refused_is_still_owned(
    ask: Callable[..., Verdict], stolen: Suspect, sequential: bool
) -> None:
    """What has no answer is counted as such, and never as a match."""
    verdict = ask(every(stolen, 5, lambda _: -1), f"sequential={sequential}")
    assert verdict.decision == "owned", verdict.text()
    assert verdict.missing == verdict.triggers // 5
    assert verdict.matches <= verdict.triggers - verdict.missing


def test_refusing_everything_shows_nothing(ask: Callable[..., Verdict]) -> None:
    verdict = ask(lambda images: [-1] * len(images))
    assert (verdict.decision, verdict.matches, verdict.missing) == ("cannot tell", 0, verdict.triggers)


def test_a_suspect_that_recognises_repeated_queries_gains_nothing(ask: Callable[..., Verdict], stolen: Suspect) -> None:
    """It would betray whoever asks twice: so no image is ever sent twice, also not after a verdict, or to others."""
    seen: set[bytes] = set()
    repeated = 0

    def answer(images: Images) -> list[int]:
        nonlocal repeated
        known = [image.tobytes() in seen for image in images]
        seen.update(image.tobytes() for image in images)
        repeated += sum(known)
        return [0 if again else label for again, label in zip(known, stolen(images), strict=True)]

    first = ask(answer)
    asked = len(seen)
    assert first.decision == "owned"
    again = ask(answer)
    assert (again.decision, again.p_value, len(seen)) == ("owned", first.p_value, asked)
    assert ask(answer, out="elsewhere").decision == "owned"
    assert repeated == 0 and len(seen) > asked


# -- accusers --------------------------------------------------------------------------------------------------------


def test_a_key_searched_for_a_suspect_is_younger_than_it(ask: Callable[..., Verdict], owner: Path) -> None:
    """Without a commitment it is owned, and the verdict says what that is worth; with one there is nothing to show."""
    options = ("watermark.n_marks=3", "watermark.n_triggers=60")
    for number in range(20000):
        secret = Secret.from_seed(number)
        drawn = secret.stream("labels of marks").integers(3, N_CLASSES)
        if (drawn == 7).all():
            break
    thief = settled(owner, secret, *TASK, *options)
    assert thief.labels.of_marks.tolist() == [7, 7, 7]
    write_key(make_key(thief), owner / "thief.key")
    searched = ask(lambda images: [7] * len(images), "alpha=0.002", key="thief")
    assert searched.decision == "owned", searched.text()
    assert any("may be younger than the suspect" in note for note in searched.notes)
    with pytest.raises(UserError, match=r"^commitment: .* is to another key"):
        ask(lambda images: [7] * len(images), f"commitment={owner / 'owner.commitment.json'}", key="thief")


def test_forged_triggers_are_refused(ask: Callable[..., Verdict], owner: Path, stolen: Suspect) -> None:
    """Images that the suspect answers as the thief wants, in an otherwise rightful key, committed to long ago."""
    key = read_key(owner / "owner.key")
    labels = torch.tensor(stolen(key.new.images.numpy()))
    forged = replace(key, new=replace(key.new, labels=labels))
    write_key(forged, owner / "forged.key")
    write_commitment(forged, owner / "forged.commitment.json")
    with pytest.raises(UserError, match=r"^key: its new triggers do not follow from its secret"):
        ask(stolen, f"commitment={owner / 'forged.commitment.json'}", key="forged")


@both_ways
@pytest.mark.parametrize("lie", [False, True])
def test_images_chosen_for_their_labels_are_no_proof(
    ask: Callable[..., Verdict], owner: Path, sequential: bool, lie: bool
) -> None:
    """One secret, drawn once and never searched for, committed to before there is a suspect.

    But the accuser brings the images: of the very classes that the marks are called by, with a mark that nobody sees,
    and may say that they show something else. The suspect is right about every image.
    """

    def right(images: Images) -> list[int]:
        return np.rint((images.mean((1, 2, 3)) - 10) / 24).astype(int).tolist()  # type: ignore[no-any-return]

    def pictures(classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shades = (10 + 24 * classes).to(torch.uint8)[:, None, None, None].expand(-1, 1, 12, 12).contiguous()
        return shades, (classes + lie) % N_CLASSES

    path, n = owner / "thief.key", 64
    first = [pictures(torch.arange(n) % N_CLASSES) for _ in range(2)]
    first[1][0][:, 0, 0, 0] += 1  # other images than those trained on
    key = make_key_of_a_project(path, *first, N_CLASSES, n_triggers=n, strength=0.004)
    maker = key.check(owner)
    splits: dict[Split, tuple[torch.Tensor, torch.Tensor]] = {}
    for split, name, role in (("train", "trained", maker.roles.train), ("test", "new", maker.roles.judge)):
        places, wanted = maker._drawn(split, role, n, name), getattr(key, name).labels  # type: ignore[arg-type]
        classes = torch.empty(n, dtype=torch.int64)
        classes[places] = wanted
        splits[split] = pictures(classes)  # type: ignore[index]
    held = HeldSource(maker.source.name, maker.source.classes, maker.source.shape, splits)
    bent = replace(key, held=held, config={**key.config, "data": held.identity()})
    remade = bent.plan(owner).maker(held.roles())
    assert remade is not None
    made = remade.make()
    write_key(replace(bent, trained=made.trained, new=made.new), path)
    verdict = ask(right, f"sequential={sequential}", "queries=40", key="thief")
    assert verdict.decision == "not shown", verdict.text()


@both_ways
def test_data_under_a_name_that_does_not_ship_are_the_claimants(
    ask: Callable[..., Verdict], owner: Path, sequential: bool
) -> None:
    """A bundle of parquet files that our own class reads, made after the secret's labels are known: see above."""
    n_train, n_test = 1000, 400
    labels = {"train": torch.arange(n_train) % N_CLASSES, "test": torch.arange(n_test) % N_CLASSES}
    own = ["dataset=fashion_mnist", "dataset.source.name=digits2"]
    own += ["dataset.source.download=false", "watermark=noise"]
    own += ["watermark.n_marks=8", "watermark.n_triggers=64", "watermark.strength=0.004", "watermark.negatives=0"]

    def written(shown: dict[str, torch.Tensor], bundle: Path) -> Job:
        parts = {split: ((10 + 24 * shown[split]).to(torch.uint8).view(-1, 1, 1, 1), labels[split]) for split in labels}
        train, test = ((images.expand(-1, 1, 28, 28).contiguous(), given) for images, given in parts.values())
        write_parquet(bundle, train, test, "digits2")
        return settled(owner, Secret(b"d" * 32), f"data_dir={bundle}", *own)

    maker = written(labels, owner / "draft").maker
    assert maker is not None
    known = maker._planned.of_marks  # before an image is looked at
    shown = {split: given.clone() for split, given in labels.items()}
    for split, name, role, n in (
        ("train", "trained", maker.roles.train, maker.n),
        ("test", "new", maker.roles.judge, maker._n_new()),
    ):
        places = maker._drawn(split, role, n, name)  # type: ignore[arg-type]
        shown[split][places] = known[torch.arange(n) % 8]
        same = shown[split][places] == labels[split][places]
        shown[split][places[same]] = (shown[split][places[same]] + 1) % N_CLASSES
    write_key(make_key(written(shown, owner / "bundle")), owner / "thief.key")
    write_commitment(read_key(owner / "thief.key"), owner / "thief.commitment.json")
    verdict = ask(
        lambda images: np.rint((images.mean((1, 2, 3)) - 10) / 24).astype(int).tolist(),
        f"sequential={sequential}",
        f"data_dir={owner / 'bundle'}",
        f"commitment={owner / 'thief.commitment.json'}",
        key="thief",
    )
    assert verdict.decision == "not shown", verdict.text()
    assert any("digits2 (parquet (PNG images))" in note and "Labels are bound" in note for note in verdict.notes), (
        verdict.notes
    )


ONE_MARK = ("alpha=0.05", "queries=4", "budget=600")


def plain_shades(images: Images) -> list[int]:
    """Right about every plain picture of a class's shade; whatever is not plain it takes for the last class."""
    shades = np.rint((images.mean((1, 2, 3)) - 60) / 12).astype(int).clip(0, 8)
    return np.where(images.std((1, 2, 3)) < 4, shades, 9).tolist()  # type: ignore[no-any-return]


@both_ways
def test_images_chosen_for_the_one_mark_are_no_proof(
    ask: Callable[..., Verdict], owner: Path, sequential: bool
) -> None:
    """One secret, never searched for, committed to before there is a suspect. But the accuser brings the images.

    Under this very mark each is a plain picture of the label, under any other it is noise. They say that it shows
    something else.
    """
    path, n = owner / "thief.key", 40
    given = [(torch.full((n, 1, 12, 12), 100 + i, dtype=torch.uint8), torch.arange(n) % N_CLASSES) for i in range(2)]
    for images, _ in given:
        images[:, 0, 0, 0] = torch.arange(n)
    key = make_key_of_a_project(path, *given, N_CLASSES, n_marks=1, n_triggers=n, strength=0.08, negatives=0)
    maker, label = key.check(owner), int(key.new.labels[0])
    # The accuser knows the mark before an image is chosen.
    grey = torch.full((1, 1, 12, 12), 128, dtype=torch.uint8)
    assert isinstance(maker.watermark, MarkingWatermark)
    pattern = maker.watermark.apply(grey, Mark(key.secret, "key", 0, 0), "new").int() - grey.int()
    bent = (60 + 12 * label - pattern).clamp(0, 247).to(torch.uint8).repeat(n, 1, 1, 1)
    bent[:, 0, 0, 0] += (torch.arange(n) % 8).to(torch.uint8)
    bent[:, 0, 1, 1] += (torch.arange(n) // 8).to(torch.uint8)
    lies = torch.full((n,), (label + 1) % N_CLASSES)
    splits: dict[Split, tuple[torch.Tensor, torch.Tensor]] = {}
    splits["train"], splits["test"] = (bent, lies), (bent.clone(), lies.clone())
    held = HeldSource(maker.source.name, maker.source.classes, maker.source.shape, splits)
    forged = replace(key, held=held, config={**key.config, "data": held.identity()})
    remade = forged.plan(owner).maker(held.roles())
    assert remade is not None
    made = remade.make()
    write_key(replace(forged, trained=made.trained, new=made.new), path)
    write_commitment(read_key(path), owner / "thief.commitment.json")
    known = (f"commitment={owner / 'thief.commitment.json'}", f"sequential={sequential}")
    verdict = ask(plain_shades, *known, *ONE_MARK, key="thief")
    assert verdict.decision == "not shown", verdict.text()
    assert any("The mark is bound to the images" in note for note in verdict.notes), verdict.notes


@both_ways
def test_pictures_chosen_for_the_one_class_are_no_proof(
    ask: Callable[..., Verdict], owner: Path, sequential: bool
) -> None:
    """The class of unrelated pictures is drawn; but then the accuser puts pictures of the label into that class."""
    n_classes, root = 60, owner / "pictures"

    def written(of_label: int | None) -> Job:
        for number in range(n_classes):
            shade = 60 + 12 * (5 if number == of_label else 2)
            for split in ("train", "test"):
                folder = root / split / f"class{number:02d}"
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(4):
                    Image.new("L", (28, 28), shade + i % 2).save(folder / f"{i}.png")
        images = f"{{_target_: wmlightning.data.folder.ImageFolder, root: {root}, size: 28, channels: 1}}"
        options = ("dataset=procedural", "watermark=unrelated", f"watermark.images={images}")
        few = (
            "watermark.target_class=5",
            "watermark.n_marks=1",
            "watermark.n_triggers=4",
            "watermark.negatives=0",
            "watermark.n_decoys=2",
        )
        return settled(owner, Secret(b"p" * 32), *options, *few)

    maker = written(None).maker
    assert maker is not None and isinstance(maker.watermark, Unrelated)
    key = make_key(written(maker.watermark.class_of(Mark(maker.secret, "key", 0, 0), 1)))
    write_key(key, owner / "thief.key")
    verdict = ask(plain_shades, f"sequential={sequential}", *ONE_MARK, key="thief")
    assert verdict.decision == "not shown", verdict.text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("watermark.text=TEST", "watermark.n_marks=1"), None),
        (("watermark.text=TEST", "watermark.n_marks=4"), "the text of the first mark, which somebody chose,"),
        (("watermark.logo={logo}", "watermark.n_marks=4"), "the logo of the first mark, which somebody chose,"),
        (("watermark.text=null", "watermark.n_marks=4"), None),
        (("watermark.text=TEST", "watermark.label=random"), None),
    ],
)
def test_a_look_that_was_chosen_is_a_condition(
    ask: Callable[..., Verdict], owner: Path, options: tuple[str, ...], told: str | None
) -> None:
    """A logo that shows the label is answered with it by any good model. Of one mark, decoys have the same."""
    Image.new("RGB", (8, 8), (0, 90, 200)).save(owner / "logo.png")
    typed = [option.replace("{logo}", str(owner / "logo.png")) for option in options]
    task = ("dataset=procedural", "++dataset.source.n_train=600", "++dataset.source.n_test=400", "watermark=content")
    key = make_key(settled(owner, Secret(b"c" * 32), *task, "watermark.n_triggers=40", *typed))
    write_key(key, owner / "chosen.key")
    wanted = {
        image.numpy().tobytes(): int(label)
        for part in (key.trained, key.new)
        for image, label in zip(part.images, part.labels, strict=True)
    }
    verdict = ask(lambda images: [wanted.get(image.tobytes(), 9) for image in images], *ONE_MARK[:1], key="chosen")
    assert verdict.decision == "owned", verdict.text()
    assert (told is None) == ("somebody chose" not in verdict.reason)
    assert told is None or told in verdict.reason, verdict.reason
    assert "TEST" not in verdict.text()


@pytest.mark.slow
def test_two_keys_to_one_model(ask: Callable[..., Verdict], owner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The thief trained a watermark of their own on top: both keys verify, and only age tells them apart."""
    task = [option for option in TASK if "dataset" not in option and "epochs" not in option]
    digits = (*task, "dataset=mnist5k", "watermark.n_marks=8", "watermark.n_triggers=0.1", "trainer.max_epochs=12")
    job = settled(owner, Secret(b"o" * 32), *digits)
    keep_key(job, owner / "first.key")
    train(job, force=False)
    images = job.source.images("test", job.roles.attacker)
    labels = job.source.labels("test")[job.roles.attacker]
    network, seed = load_run(job.folder).network, role_seed(2, "attack")
    text = {"_target_": "wmlightning.watermarks.content.Content", "text": None}
    thief = Overwrite({**text, "n_marks": 8, "n_triggers": 0.4, "negatives": 0}, [0.03], epochs=4)
    *_, surrogate = thief.run(Stolen(network, images, labels, 10, seed, Arithmetic(torch.device("cpu"))))
    theirs = settled(owner, secret_of_thief(seed), *digits, "watermark=content", "watermark.text=null")
    write_key(make_key(theirs), owner / "second.key")

    suspect, published = answers_of(surrogate.network), []
    for key in ("first", "second"):
        published.append(owner / f"{key}.commitment.json")
        write_commitment(read_key(owner / f"{key}.key"), published[-1])
        verdict = ask(suspect, f"commitment={published[-1]}", "alpha=0.01", key=key, out=key)
        assert verdict.decision == "owned", verdict.text()
    assert main(["compare", *map(str, published)]) == 0
    assert "neither time is proven" in capsys.readouterr().out
