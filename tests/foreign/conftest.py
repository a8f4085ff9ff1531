"""An owner's key, made once for each file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.projects import owners_key
from wmlightning.ownership.key import Key


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("owner") / "owner.key"


@pytest.fixture(scope="module")
def key(path: Path) -> Key:
    return owners_key(path)
