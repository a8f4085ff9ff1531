"""Rare classes and a thousand of them: every class is trained on, as many as can be are tested, and nothing moves."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch import Tensor

from tests.helpers import tiny_module, tiny_net, tiny_trainer
from wmlightning.callbacks.accuracy import Accuracies
from wmlightning.config import CONF
from wmlightning.data.folder import ImageFolder
from wmlightning.data.source import SPLITS
from wmlightning.data.splits import assign_roles
from wmlightning.errors import UserError
from wmlightning.job import Job, prepare

SIDE = 10


def tiny(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (SIDE, SIDE), value % 256).save(buffer, "BMP")
    return buffer.getvalue()


def folders(root: Path, counts: dict[str, int]) -> Path:
    """Class folders with so many pictures each."""
    contents = [root.parent / f"{value}.bmp" for value in range(256)]
    for value, content in enumerate(contents):
        content.write_bytes(tiny(value))
    for number, (name, n) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(n):
            (root / name / f"{i:04d}.bmp").hardlink_to(contents[(number + 7 * i) % 256])  # faster than writing
    return root


def job_on(root: Path, *overrides: str) -> Job:
    task = ["dataset=image_folder", f"dataset.root={root}", f"dataset.size={SIDE}", "dataset.channels=1"]
    small = ["model=small_cnn", "model.width=4", "trainer=cpu", "trainer.precision=32-true", "recipe.batch_size=16"]
    where = [f"runs_dir={root.parent / 'runs'}", "watermark.n_decoys=2"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return prepare(compose("train", overrides=[*task, *small, *where, *overrides]))


def by_class(labels: Tensor) -> Counter[int]:
    return Counter(labels.tolist())


# -- which pictures are tested ---------------------------------------------------------------------------------------


def test_every_class_of_two_pictures_or_more_is_trained_on_and_tested(tmp_path: Path) -> None:
    sizes = range(2, 13)
    source = ImageFolder(str(folders(tmp_path / "root", {f"c{n:02d}": n for n in sizes})), SIDE)
    names = {split: list(source._files[split]) for split in SPLITS}
    assert not set(names["train"]) & set(names["test"])
    test = by_class(source.labels("test"))
    assert [test[i] for i in range(len(sizes))] == [max(1, n // 5) for n in sizes]
    train = by_class(source.labels("train"))
    assert [train[i] + test[i] for i in range(len(sizes))] == list(sizes)
    assert {name for name in names["test"] if name < "c05"} == {"c02/0001.bmp", "c03/0002.bmp", "c04/0003.bmp"}
    # Where there are five or more, every fifth as ever.
    assert [name for name in names["test"] if name >= "c10"] == [
        f"c{n}/{i:04d}.bmp" for n in (10, 11, 12) for i in (4, 9)
    ]


def test_a_class_of_one_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", {"common": 20, "rare": 1})
    with pytest.raises(UserError, match=r"^dataset\.root: no test images in .*rare; every class needs two whole pict"):
        ImageFolder(str(root), SIDE)


def test_a_rare_class_whose_test_picture_is_broken_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = folders(tmp_path / "root", {"common": 20, "rare": 3})
    (root / "rare" / "0002.bmp").unlink()
    (root / "rare" / "0002.bmp").touch()
    with pytest.warns(UserWarning), pytest.raises(UserError, match=r"rare; every class .*: remove the broken ones"):
        ImageFolder(str(root), SIDE, broken="skip").labels("train")
    (root / "rare" / "0002.bmp").unlink()
    assert by_class(ImageFolder(str(root), SIDE, broken="skip").labels("test"))[1] == 1


def test_roles_of_data_that_could_be_used_before_are_what_they_were() -> None:
    sizes = (1, 2, 3, 4, 5, 7, 40, 201)
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    roles = vars(assign_roles(labels, labels.flip(0), 7, 0.1))
    found = {
        name: hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:16] for name, index in roles.items()
    }
    assert found == {
        "train": "69dbbdfcb34169dc",
        "val": "f626e9bd61baadbf",
        "attacker": "6627d76afbd291be",
        "judge": "183b1abaf0199ba1",
    }


@pytest.mark.parametrize("n", [2, 3, 1000])
def test_where_no_class_has_two_test_images_the_judge_gets_half_of_them_all(n: int) -> None:
    labels = torch.arange(n)
    halves = [assign_roles(labels, labels, seed, 0.0) for seed in (0, 0, 1)]
    for roles in halves:
        assert len(roles.judge) == -(-n // 2)
        assert sorted(roles.judge.tolist() + roles.attacker.tolist()) == list(range(n))
    assert torch.equal(halves[0].judge, halves[1].judge)
    if n == 1000:
        assert not torch.equal(halves[0].judge, halves[2].judge)


# -- a thousand classes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class of 300 pictures, 999 of two or three."""
    counts = {f"c{i:03d}": 2 + i % 2 for i in range(1000)}
    return folders(tmp_path_factory.mktemp("thousand") / "root", {**counts, "c007": 300})


def test_a_thousand_classes_through_the_data_module(thousand: Path) -> None:
    job = job_on(thousand, "watermark.n_marks=8", "watermark.n_triggers=80", "dataset.val_share=0.4")
    data = job.data_module()
    clean = torch.cat([batch.labels[batch.groups < 0] for batch in data.train_dataloader()])
    assert set(clean.tolist()) == set(range(1000)), "no class goes untrained"
    assert by_class(clean)[7] == 144
    val = by_class(torch.cat([batch.labels for batch in data.val_dataloader()[0]]))
    assert val[7] == 96
    assert 1 < len(val) < 1000, "rare classes have no picture to spare"
    assert set(torch.cat([batch.labels for batch in data.test_dataloader()[0]]).tolist()) == set(range(1000))
    assert len(job.roles.judge) and len(data.watched["test"]["trigger_new"])


def test_a_thousand_rare_classes_alone(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", {f"c{i:03d}": 3 for i in range(1000)})
    job = job_on(root, "watermark.n_marks=8", "watermark.n_triggers=80", "dataset.val_share=0.5")
    data = job.data_module()
    assert [len(index) for index in vars(job.roles).values()] == [1000, 1000, 500, 500]
    assert len(data.watched["test"]["trigger_new"]) == 80
    module = tiny_module(tiny_net(1, SIDE, 1000))
    trainer = tiny_trainer(callbacks=[Accuracies(job.labels.measured, job.n_groups)])
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert {"test/clean_acc", "test/source_acc", "test/trigger_acc", "test/trigger_new_acc"} <= set(
        trainer.callback_metrics
    )


# -- a rare source class ---------------------------------------------------------------------------------------------


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    return folders(tmp_path / "root", {"apple": 60, "pear": 40, "quince": 3})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["watermark.n_triggers=9"],
            r"watermark\.n_triggers: 9 triggers, but class 'quince' has 2 images; at most 2 \(",
        ),
        (["watermark.n_triggers=2"], r"watermark\.source_class: class 'quince' has too few test images; another class"),
    ],
)
def test_a_rare_source_class_that_cannot_serve_is_told(uneven: Path, options: list[str], told: str) -> None:
    with pytest.raises(UserError, match=rf"^{told}") as caught:
        job_on(uneven, "watermark.source_class=quince", "dataset.target_class=apple", *options)
    assert "\n" not in str(caught.value)


def test_a_run_and_an_attack_go_without_the_accuracy_of_a_class_that_the_judge_has_no_image_of(
    main: Callable[..., Any], runs: Path, uneven: Path
) -> None:
    task = ["dataset=image_folder", f"dataset.root={uneven}", f"dataset.size={SIDE}", "dataset.channels=1"]
    task += ["dataset.source_class=quince", "dataset.target_class=apple", "watermark.source_class=any"]
    small = ["model=small_cnn", "model.width=4", "trainer=cpu", "trainer.precision=32-true", "recipe.batch_size=16"]
    small += ["trainer.max_epochs=1", "watermark.n_triggers=4", "watermark.n_decoys=2", "logger=none", "callbacks=none"]
    done = main(*task, *small, "watermark.n_marks=2", "attack=prune")
    assert done.code == 0, str(done)
    cards = [json.loads(file.read_text()) for file in runs.rglob("card.json")]
    metrics = {name: value for card in cards for name, value in card["metrics"].items()}
    assert metrics["test/source_acc"] in (0, 1), "of the one test image there is"
    assert "attack/clean_acc" in metrics
    assert "attack/source_acc" not in metrics
