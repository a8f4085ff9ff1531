"""One contract over every file in conf/suspect: found by listing the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ownership import services
from tests.ownership.services import oip_service, serving
from tests.ownership.test_local_suspects import LEAVES, SHAPE, K, network, scripted, written_onnx
from wmlightning.ownership.suspects.base import Shape
from wmlightning.store import Run
from wmlightning.testing import check_suspect

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:FutureWarning")

#: Overrides, shape of the images, number of classes.
Case = tuple[list[str], Shape, int]


@contextmanager
def the_network(folder: Path, stored: Run) -> Iterator[Case]:
    del folder
    yield [f"suspect.path={stored.folder}"], stored.job.source.shape, len(stored.classes)


@contextmanager
def the_script(folder: Path, stored: Run) -> Iterator[Case]:
    del stored
    yield [f"suspect.path={scripted(network(), folder / 'a.pt')}"], SHAPE, K


@contextmanager
def the_file(folder: Path, stored: Run) -> Iterator[Case]:
    del stored
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    written_onnx(folder / "a.onnx")
    yield [f"suspect.path={folder / 'a.onnx'}", "suspect.threads=1"], SHAPE, K


@contextmanager
def the_function(folder: Path, stored: Run) -> Iterator[Case]:
    del folder, stored
    yield ["suspect.function=tests.ownership.test_contract:first_pixel", "suspect.batch_size=3"], SHAPE, K


def first_pixel(images: object) -> object:
    return images[:, 0, 0, 0] % K  # type: ignore[index]


@contextmanager
def the_service(folder: Path, stored: Run) -> Iterator[Case]:
    del folder, stored
    with serving(oip_service()) as service:
        url = service.url.removesuffix("/predict")
        yield [f"suspect.url={url}", "suspect.model=m", "suspect.batch_size=3"], services.SHAPE, services.K


@contextmanager
def the_api(folder: Path, stored: Run) -> Iterator[Case]:
    del folder, stored
    with serving() as service:
        yield [f"suspect.url={service.url}", "suspect.image.kind=list"], services.SHAPE, services.K


CASES: dict[str, Callable[[Path, Run], object]] = {
    "network": the_network,
    "torchscript": the_script,
    "onnx": the_file,
    "callable": the_function,
    "oip": the_service,
    "json_api": the_api,
}


def test_every_leaf_has_a_case() -> None:
    assert sorted(CASES) == LEAVES


@pytest.mark.parametrize("name", LEAVES)
def test_every_shipped_suspect_keeps_the_contract(name: str, tmp_path: Path, stored: Run) -> None:
    with CASES[name](tmp_path, stored) as (overrides, shape, n_classes):  # type: ignore[attr-defined]
        check_suspect(name, overrides=overrides, shape=shape, n_classes=n_classes)
