"""Suspects on this machine: they answer what the model answers, and say what is wrong with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from tests.conftest import REPO
from tests.helpers import random_images
from wmlightning.config import make
from wmlightning.errors import UserError
from wmlightning.models.networks import Normalized
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.base import Suspect, Unreachable
from wmlightning.ownership.suspects.function import Function
from wmlightning.ownership.suspects.http import Http
from wmlightning.ownership.suspects.network import Network
from wmlightning.ownership.suspects.oip import Oip
from wmlightning.ownership.suspects.onnx import Onnx
from wmlightning.ownership.suspects.pixels import Pixels
from wmlightning.ownership.suspects.torchscript import TorchScript
from wmlightning.store import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:FutureWarning")
SHAPE, K = (3, 8, 8), 5


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, K))
    return Normalized(inner, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]).eval()


def wanted(net: nn.Module, images: Tensor) -> list[int]:
    with torch.no_grad():
        found: list[int] = net(images.float().div(255)).argmax(1).tolist()
        return found


def opened(suspect: Suspect, shape: tuple[int, int, int] = SHAPE, n_classes: int = K) -> Suspect:
    suspect.open(shape, n_classes)
    return suspect


def labels(suspect: Suspect, images: Tensor) -> list[int | None]:
    with Recorded(suspect, shape=tuple(images.shape[1:]), n_classes=K) as asked:  # type: ignore[arg-type]
        return [answer.label for answer in asked.ask(images)]


def scripted(net: nn.Module, path: Path) -> Path:
    torch.jit.trace(net, torch.zeros(1, *SHAPE)).save(str(path))  # type: ignore[no-untyped-call]
    return path


# -- networks of ours ------------------------------------------------------------------------------------------------


def test_run_answers_as_its_network(stored: Run) -> None:
    suspect = Network(str(stored.folder))
    suspect.open()
    assert suspect.n_classes == len(stored.classes)
    assert suspect.shape is not None
    images = stored.job.source.images("test", torch.arange(50))
    with torch.no_grad():
        found = stored.network(images.float().div(255)).argmax(1)
    assert [answer.label for answer in suspect.ask(images)] == found.tolist()
    assert len(found.unique()) > 1


def test_weights_need_an_architecture(stored: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in stored.network.state_dict().items()}, file)
    torch.save(stored.network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"suspect\.like"):
        Network(str(file)).open()
    images = stored.job.source.images("test", torch.arange(20))
    suspects = [Network(str(stored.folder)), Network(str(stored.folder / "model.safetensors"))]
    suspects += [Network(str(tmp_path / f"weights.{end}"), like=str(stored.folder)) for end in ("safetensors", "pt")]
    for suspect in suspects:
        suspect.open()
    found = [[answer.label for answer in suspect.ask(images)] for suspect in suspects]
    assert found[0] == found[1] == found[2] == found[3]
    same = [suspect.identity()["sha256"] for suspect in suspects[:2]]
    assert same[0] == same[1], "the same weights are the same suspect"


def test_wrong_size_and_classes_are_told(stored: Run) -> None:
    suspect = Network(str(stored.folder))
    suspect.open()
    assert suspect.shape is not None
    with pytest.raises(UserError, match="the key's are 3x99x99"):
        suspect.open((3, 99, 99))
    with pytest.raises(UserError, match="the key's task has 77"):
        suspect.open(None, 77)
    suspect.open(suspect.shape, len(stored.classes))


@pytest.mark.parametrize("name", ["nowhere", "empty", "junk.safetensors", "junk.pt"])
def test_bad_paths_are_told(stored: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("junk.safetensors", "junk.pt"):
        (tmp_path / file).write_bytes(b"junk" * 100)
    with pytest.raises(UserError, match=r"suspect\.path") as caught:
        Network(str(tmp_path / name), like=None if name in ("nowhere", "empty") else str(stored.folder)).open()
    assert "\n" not in str(caught.value)


def test_device_that_is_not_there(stored: Run) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"suspect\.device"):
        Network(str(stored.folder), device="gpu").open()


# -- TorchScript -----------------------------------------------------------------------------------------------------


class Blackens(nn.Module):
    """Writes to what it is given."""

    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, :5].float()
        images.zero_()
        return first


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_torchscript_cannot_change_the_owners_images(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.pt"
    torch.jit.script(Blackens()).save(str(path))  # type: ignore[no-untyped-call]
    images = random_images(4, SHAPE)
    before = images.clone()
    labels(TorchScript(str(path), Pixels("byte", layout=layout)), images)
    assert torch.equal(images, before)


def test_torchscript_answers_as_the_network(tmp_path: Path) -> None:
    net, images = network(), random_images(64, SHAPE)
    suspect = TorchScript(str(scripted(net, tmp_path / "a.pt")), batch_size=7)
    assert labels(suspect, images) == wanted(net, images)
    assert len(set(wanted(net, images))) > 1


def test_normalisation_outside(tmp_path: Path) -> None:
    net, images = network(), random_images(64, SHAPE)
    path = scripted(net.net, tmp_path / "inner.pt")  # type: ignore[arg-type]
    pixels = Pixels(mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])
    assert labels(TorchScript(str(path), pixels), images) == wanted(net, images)
    assert labels(TorchScript(str(path)), images) != wanted(net, images)


def test_the_same_file_read_in_another_way_is_another_suspect(tmp_path: Path) -> None:
    first, second = (str(scripted(network(seed), tmp_path / f"{seed}.pt")) for seed in (0, 1))
    suspects = [
        TorchScript(first),
        TorchScript(first, Pixels("byte")),
        TorchScript(second),
        TorchScript(first, Pixels()),
    ]
    a, b, c, d = (json.dumps(suspect.identity()) for suspect in suspects)
    assert len({a, b, c}) == 3
    assert a == d
    one, two = (Oip("http://x", "m", output=output).identity() for output in (None, "label"))
    assert one != two


def test_bad_torchscript(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    for content in (None, b"", b"junk" * 100):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError, match=r"suspect\.path") as caught:
            opened(TorchScript(str(file)))
        assert "\n" not in str(caught.value)
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"suspect\.path"):
        opened(TorchScript(str(file)))


def test_wrong_images_are_told_when_they_are_first_asked(tmp_path: Path) -> None:
    path = str(scripted(network(), tmp_path / "a.pt"))
    with pytest.raises(UserError, match="does not take 3x9x9 images"):
        opened(TorchScript(path), (3, 9, 9)).ask(random_images(3, (3, 9, 9)))
    with pytest.raises(UserError, match="tells 5 classes apart"):
        opened(TorchScript(path), SHAPE, 10).ask(random_images(3, SHAPE))


# -- ONNX ------------------------------------------------------------------------------------------------------------


def written_onnx(path: Path, batch: int | str = "n", n_classes: int | str = K, dtype: str = "FLOAT") -> np.ndarray:
    """Writes a linear model by hand: exporters come and go."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = np.random.default_rng(0).normal(size=(192, K)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["floats"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    cast = helper.make_node("Cast", ["x"], ["floats"], to=kinds.FLOAT)
    graph = helper.make_graph(
        [cast, *nodes],
        "g",
        [helper.make_tensor_value_info("x", getattr(kinds, dtype), [batch, *SHAPE])],
        [helper.make_tensor_value_info("scores", kinds.FLOAT, [batch, n_classes])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return weights


@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("dtype", ["FLOAT", "UINT8", "DOUBLE"])
def test_onnx_answers_as_its_weights_say(tmp_path: Path, batch: int | str, dtype: str) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    weights = written_onnx(tmp_path / "a.onnx", batch, dtype=dtype)
    images = random_images(30, SHAPE)
    suspect = Onnx(str(tmp_path / "a.onnx"), batch_size=9, threads=1)
    found = labels(suspect, images)
    assert found == (images.reshape(30, -1).numpy() @ weights).argmax(1).tolist()
    assert suspect.batch_size == (9 if batch == "n" else batch)
    assert suspect.shape == SHAPE


def test_bad_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    file = tmp_path / "a.onnx"
    for content in (None, b"", b"junk" * 100):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError, match=r"suspect\.path") as caught:
            opened(Onnx(str(file)))
        assert "\n" not in str(caught.value)
    written_onnx(file)
    with pytest.raises(UserError, match="takes 3x8x8 images"):
        opened(Onnx(str(file)), (1, 8, 8))
    with pytest.raises(UserError, match="tells 5 classes apart"):
        opened(Onnx(str(file)), SHAPE, 10)
    with pytest.raises(UserError, match=r"suspect\.output"):
        opened(Onnx(str(file), output="other"))


def test_onnx_answers_are_found_again(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    written_onnx(tmp_path / "a.onnx")
    found = []
    for _ in range(2):
        suspect = Onnx(str(tmp_path / "a.onnx"), threads=1)
        with Recorded(suspect, tmp_path / "transcript.jsonl", None, SHAPE, K) as asked:
            found.append(asked.ask(random_images(5, SHAPE)))
            assert asked.queries == 5
    assert found[0] == found[1]


def test_onnx_with_other_weights_beside_it_is_another_suspect(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    file = tmp_path / "a.onnx"
    weights = written_onnx(file)
    plain = Onnx(str(file)).identity()
    name = "weights of mine/" + "x" * 150 + ".data"  # its length takes two bytes
    (tmp_path / name).parent.mkdir()
    onnx.save_model(onnx.load(file), str(file), save_as_external_data=True, location=name, size_threshold=0)
    assert (tmp_path / name).stat().st_size == weights.nbytes
    one = Onnx(str(file)).identity()
    assert list(one["beside"]) == [name]
    images = random_images(20, SHAPE)
    assert labels(Onnx(str(file), threads=1), images) == (images.reshape(20, -1).numpy() @ weights).argmax(1).tolist()
    (tmp_path / name).write_bytes((-weights).tobytes())
    other = Onnx(str(file)).identity()
    assert one["sha256"] == other["sha256"] != plain["sha256"]
    assert one != other


@pytest.mark.parametrize("name", ["x" * 300, "/etc/passwd", "../secret", "a\0b"])
def test_onnx_that_names_what_is_not_beside_it(tmp_path: Path, name: str) -> None:
    """Such a file is a stranger's: the owner's are neither read nor named."""
    (tmp_path / "secret").touch()
    folder = tmp_path / "models"
    folder.mkdir()
    size = bytes([len(name) % 128 + 128, len(name) // 128]) if len(name) > 127 else bytes([len(name)])
    (folder / "a.onnx").write_bytes(b"rubbish\x0a\x08location\x12" + size + name.encode())
    assert "beside" not in Onnx(str(folder / "a.onnx")).identity()


def test_onnx_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'wmlightning\[onnx\]'"):
        opened(Onnx(str(tmp_path / "a.onnx")))


# -- functions -------------------------------------------------------------------------------------------------------

MODULE = """
import numpy as np
n_calls = 0
def labels(images):
    assert images.dtype == np.uint8 and images.shape[1:] == (3, 8, 8)
    return images[:, 0, 0, 0] % 5
def scores(images):
    return np.eye(5)[labels(images)]
class box:
    @staticmethod
    def call(images):
        return labels(images).tolist()
def moody(images):
    global n_calls
    n_calls += 1
    if n_calls in (2, 3):
        raise RuntimeError("not now")
    if n_calls == 5:
        return [1]
    if n_calls == 6:
        return None
    return labels(images)
def fussy(images):
    if (images[:, 0, 0, 0] == 255).any():
        raise RuntimeError("not this one")
    return labels(images)
def broken(images):
    raise RuntimeError("never")
def ending(images):
    raise SystemExit(0)
def mortal(images):
    global n_calls
    n_calls += 1
    if n_calls > 1 and n_calls % 7 != 2:
        raise ConnectionError("nobody there")
    return labels(images)
def silent(images):
    return None
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"a_model_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


@pytest.mark.parametrize("function", ["labels", "scores", "box.call"])
def test_function(module: str, function: str) -> None:
    images = random_images(30, SHAPE)
    assert labels(Function(f"{module}:{function}", 8), images) == (images[:, 0, 0, 0] % 5).tolist()


def test_edited_function_is_another_suspect(module: str, tmp_path: Path) -> None:
    """Also before it is imported; that costs the import of packages around it alone."""
    one = Function(f"{module}:labels").identity()
    assert module not in sys.modules
    imported = opened(Function(f"{module}:labels"))
    assert imported.identity() == one
    (tmp_path / f"{module}.py").write_text(MODULE.replace("% 5", "% 4"))
    assert imported.identity() != one
    assert Function("math:sqrt").identity() == Function("math:sqrt").identity(), "compiled into Python, or a library"
    with pytest.raises(UserError, match=r"suspect\.function: cannot import"):
        Function("nowhere_at_all.mine:f").identity()


def test_function_that_fails_later(module: str) -> None:
    images = random_images(11, SHAPE)
    with Recorded(Function(f"{module}:moody", 2), shape=SHAPE, n_classes=K) as asked:
        answers = asked.ask(images)
        assert asked.queries == 11 + 2, "both images of the call that failed were tried alone"
    why = [answer.missing for answer in answers]
    assert why == [None, "failed", None, *["wrong count"] * 2, *["malformed"] * 2, *[None] * 4]
    right = (0, 2, 7, 8, 9, 10)
    assert [answers[i].label for i in right] == [(images[i, 0, 0, 0] % 5).item() for i in right]


def test_one_image_that_a_function_fails_on_costs_no_other(module: str) -> None:
    images = random_images(300, SHAPE)
    images[150, 0, 0, 0] = 255
    with Recorded(Function(f"{module}:fussy", 100), shape=SHAPE, n_classes=K) as asked:
        answers = asked.ask(images)
        assert asked.queries == 300 + 100
    assert [i for i, answer in enumerate(answers) if answer.label is None] == [150]


def test_what_a_function_fails_on_at_the_end_can_be_asked_again(module: str, tmp_path: Path) -> None:
    """What it asks in its turn was gone: all that comes after its last answer."""
    images = random_images(99, SHAPE)
    with Recorded(Function(f"{module}:mortal", 50), tmp_path / "t", shape=SHAPE, n_classes=K) as asked:
        with pytest.raises(Unreachable):
            asked.ask(images)
        assert [answer.asked for answer in asked.known(images)] == [True] * 51 + [False] * 48


def test_function_that_dies_is_shown_no_more(module: str) -> None:
    """And not all that there is, one after the other; those that fail now and then are asked on."""
    with Recorded(Function(f"{module}:mortal", 2), shape=SHAPE, n_classes=K) as asked:
        with pytest.raises(Unreachable, match=r"mortal: failed 5 times in a row \(ConnectionError: nobody there\)"):
            asked.ask(random_images(99, SHAPE))
        assert asked.queries == 1 + 2 + (2 + 2) + (2 + 1)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nowhere_at_all:f", "cannot import"),
        ("{}:nothing", "cannot import"),
        ("{}", "cannot import"),
        ("{}:number", "cannot be called"),
        ("", "cannot import"),
        (":f", "cannot import"),
        ("./my.py:f", "cannot import"),
        ("/tmp/my.py:f", "cannot import"),
        (".my:f", "cannot import"),
        ("{}.deeper:f", "cannot import"),
    ],
)
def test_bad_functions(module: str, function: str, words: str) -> None:
    with pytest.raises(UserError, match=r"suspect\.function.*" + words):
        opened(Function(function.format(module)))


def test_images_that_a_model_here_does_not_take_are_not_spent(tmp_path: Path) -> None:
    path = str(scripted(network(), tmp_path / "a.pt"))
    with Recorded(TorchScript(path), tmp_path / "t.jsonl", None, (3, 9, 9), K) as asked:
        with pytest.raises(UserError, match="does not take 3x9x9 images"):
            asked.ask(random_images(3, (3, 9, 9)))
        assert (asked.queries, asked.shown, asked.contacted) == (0, set(), False)


def test_images_that_a_function_got_may_be_anywhere(module: str) -> None:
    with Recorded(Function(f"{module}:broken", 2), shape=SHAPE, n_classes=K) as asked:
        with pytest.raises(UserError, match="never"):
            asked.ask(random_images(3, SHAPE))
        assert asked.queries == 1, "no more are shown before one was answered"


@pytest.mark.parametrize(
    "content", ["x = (", "raise RuntimeError('no')", "import nowhere_at_all", "raise SystemExit(0)"]
)
def test_function_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    name = f"a_broken_model_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match=r"suspect\.function: cannot import") as caught:
        opened(Function(f"{name}:f"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "words"),
    [("broken", "RuntimeError: never"), ("silent", "gives object"), ("ending", "RuntimeError: it ends the program")],
)
def test_function_that_never_works(module: str, function: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        opened(Function(f"{module}:{function}")).ask(random_images(3, SHAPE))


# -- configs ---------------------------------------------------------------------------------------------------------

LEAVES = sorted(path.stem for path in (REPO / "conf" / "suspect").glob("*.yaml") if path.stem != "http")
NEEDED = {"path": "/nowhere", "url": "http://127.0.0.1:9", "function": "nowhere:f"}


def composed(leaf: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose(overrides=[f"+suspect={leaf}", *overrides])


def needed(cfg: DictConfig) -> list[str]:
    return [f"suspect.{key}={value}" for key, value in NEEDED.items() if OmegaConf.is_missing(cfg.suspect, key)]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_is_made_without_touching_anything(leaf: str) -> None:
    """A card from elsewhere may name our targets: making one must read, import and send nothing."""
    cfg = composed(leaf)
    cfg = composed(leaf, *needed(cfg))
    suspect = make(cfg.suspect, "suspect")
    assert isinstance(suspect, Suspect)
    assert suspect.name
    with pytest.raises(UserError, match=r"suspect\."):
        suspect.open(SHAPE, K)
        suspect.ask(random_images(1, SHAPE))


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_option_is_in_the_config(leaf: str) -> None:
    import inspect

    cfg = composed(leaf).suspect
    options = set(inspect.signature(get_class(cfg._target_)).parameters)
    assert options == set(cfg) - {"_target_"}
    for part, kind in (("http", Http), ("pixels", Pixels)):
        if part in cfg:
            assert set(inspect.signature(kind).parameters) == set(cfg[part]) - {"_target_"}


def test_token_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    override = "suspect.http.headers={Authorization:'Bearer ${oc.env:SUSPECT_TOKEN}'}"
    cfg = composed("oip", "suspect.url=http://x", override)
    monkeypatch.setenv("SUSPECT_TOKEN", "t0ken")
    suspect = make(cfg.suspect, "suspect")
    assert suspect.http.headers == {"Authorization": "Bearer t0ken"}
    assert make(composed("json_api", "suspect.url=http://x", "suspect.body={a: {b: 1}}").suspect, "s").body == {
        "a": {"b": 1}
    }
    assert "t0ken" not in repr(suspect.http) + json.dumps(suspect.identity()) + suspect.name + str(cfg)
