"""What YAML lets a user type and nobody means: one line that names the key, before an image is sent or counted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from tests.ownership.services import SHAPE, K, Service, images, oip_service, serving
from tests.ownership.test_local_suspects import composed
from wmlightning.config import make
from wmlightning.errors import UserError
from wmlightning.ownership.recorded import Recorded

_HTTP = {
    "headers": ["[a]", "token", "{5: a}", "{A: 5}", "{Content-Length: '5'}"],
    "timeout": ["null", "[1]", "-1", "soon", ".inf", ".nan"],
    "connect_timeout": ["null", "-1", ".nan"],
    "retries": ["null", "-1", "1.5", "100000000"],
    "backoff": ["null", "-1", ".inf", ".nan"],
    "max_wait": ["null", "-1", ".inf"],
    "rate": ["[1]", "0", "-1", ".nan"],
    "concurrency": ["null", "0", "1.0e+9"],
    "max_answer_mb": ["null", "0", ".inf", ".nan"],
    "verify": ["null", "[a]", "5", "/nowhere/at/all"],
    "patience": ["null", "0"],
    "seed": ["null", "-1", "x"],
}
_PIXELS = {
    "kind": ["[unit]", "5", "floats"],
    "layout": ["null", "[nchw]", "hwc"],
    "mean": ["[x]", "x", "5", "[]", "[null]", "[.nan]", "[.inf]", "[true]", "[1.0e+200]", "[0.5,0.5]", "{a: 1}"],
    "std": ["[x]", "[0]", "[-1]", "[.nan]", "[1.0e-60]", "[]"],
}
_FILE = ["null", "5", "[a]", "a" * 5000, "~nobody_at_all/x", "/nowhere"]
_BATCH = ["null", "0", "-1", "1.5", "[1]", "many", "true", ".nan"]
WRONG = {
    "callable": {"function": ["null", "5", "[a]", "./my.py:f", "a" * 5000], "batch_size": _BATCH},
    "network": {
        "path": _FILE,
        "like": ["5", "[a]", "/nowhere"],
        "trust": ["null", "mine.Net", "[5]"],
        "batch_size": _BATCH,
    },
    "torchscript": {"path": _FILE, "batch_size": _BATCH, "pixels": ["5", "unit", "[a]"]},
    "onnx": {"path": _FILE, "batch_size": _BATCH, "threads": ["0", "x", "[1]"], "pixels": ["5"]},
    "oip": {
        "url": ["null", "5", "[a]", "ftp://x"],
        "model": ["null", "[m]", "''", "1.5", "'..'", "true"],
        "version": ["[1]", "1.5", "'.'", "''"],
        "input": ["[a]", "1.5", "''", "other"],
        "datatype": ["[UINT8]", "5", "BYTES"],
        "output": ["[a]", "1.5", "''", "other"],
        "answers": ["[labels]", "5", "top"],
        "batch_size": _BATCH,
        "http": ["5", "fast"],
        "pixels": ["5"],
    },
    "json_api": {
        "url": ["null", "5", "[a]"],
        "method": ["null", "5", "GET", "[POST]"],
        "body": ["5", "text", "[a]", "{a: .nan}"],
        "image": ["null", "5", "{}", "{path: a, other: 1}"],
        "image.path": ["null", "''", "[a]", "1.5", "true"],
        "image.kind": ["null", "[png]", "5"],
        "image.many": ["null", "'no'", "1", "[true]"],
        "image.item": ["null", "1.5", "[a]", "-1"],
        "image.prefix": ["null", "5", "[a]"],
        "answer": ["null", "5"],
        "answer.path": ["null", "1.5", "[a]", "-1", "true"],
        "answer.kind": ["null", "[label]", "5"],
        "answer.item": ["null", "1.5", "[a]"],
        "answer.label": ["null", "1.5", "[a]"],
        "answer.score": ["null", "1.5", "[a]"],
        "names": ["cat", "5", "[]", "[a,a]", "[a,b]", "[null]", "{a: x}", "{a: -1}", "{a: 10}", "[[a]]"],
        "batch_size": _BATCH,
        "http": ["5"],
        "pixels": ["5"],
    },
}
for _leaf, _keys in WRONG.items():
    if _leaf in ("oip", "json_api"):
        _keys |= {f"http.{key}": values for key, values in _HTTP.items()}
    if _leaf in ("oip", "json_api", "torchscript", "onnx"):
        _keys |= {f"pixels.{key}": values for key, values in _PIXELS.items()}
CASES = [(leaf, key, value) for leaf, keys in WRONG.items() for key, values in keys.items() for value in values]
#: What a value is wrong beside.
_BESIDE = {"pixels.mean": {"pixels.std": "[1.0]"}, "pixels.std": {"pixels.mean": "[0.5]"}}


@cache
def plain_config(leaf: str) -> DictConfig:
    """Composing takes longer than all the rest."""
    return composed(leaf)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(oip_service()) as found:
        yield found


def test_every_option_has_wrong_values() -> None:
    for leaf, keys in WRONG.items():
        told = {key.split(".")[0] for key in keys} | {"_target_"}
        missing = set(plain_config(leaf).suspect) - told
        assert missing <= {"output", "device"}, f"{leaf}: {missing}"  # known when the file is there


@pytest.mark.parametrize(("leaf", "key", "value"), CASES, ids=lambda part: str(part)[:40])
def test_wrong_kinds(leaf: str, key: str, value: str, service: Service, tmp_path: Path) -> None:
    address = service.url if leaf == "json_api" else service.url.removesuffix("/predict")
    there = {"callable": {"function": "math:sqrt"}, "oip": {"url": address, "model": "m"}}
    there["json_api"] = {"url": address, "image.kind": "list"}
    typed = {**there.get(leaf, {"path": f"{tmp_path}/nothing"}), **_BESIDE.get(key, {}), key: value}
    cfg = plain_config(leaf).copy()
    for name, text in typed.items():
        OmegaConf.update(cfg, f"suspect.{name}", yaml.safe_load(text), merge=False)
    sent = service.n_images
    with pytest.raises(UserError) as caught:
        suspect = make(cfg.suspect, "suspect")
        with Recorded(suspect, tmp_path / "t.jsonl", None, SHAPE, K) as asked:
            asked.ask(images(3))
    line = str(caught.value)
    assert line.startswith(f"suspect.{key.split('.')[0]}"), line
    assert "cannot make" not in line, line
    assert "\n" not in line
    assert service.n_images == sent
    assert not any('"sent"' in file.read_text() for file in tmp_path.glob("*.jsonl"))
