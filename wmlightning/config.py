"""From a composed config to objects. The only place where Hydra's ``instantiate`` is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmlightning.errors import UserError, listed

_PACKAGE = Path(__file__).resolve().parent
#: In a wheel the configs travel inside the package; in a checkout they lie beside it.
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (folder / "train.yaml").is_file())


def make(node: Any, key: str, **arguments: Any) -> Any:
    """Builds what ``_target_`` names, with plain lists and dicts as arguments.

    Args:
        node: a config node.
        key: where it stands, for error messages.
        **arguments: further arguments.

    Raises:
        UserError: if the target does not exist or refuses its arguments.
    """
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from error
            cause = cause.__cause__
        target = OmegaConf.select(node, "_target_") if isinstance(node, DictConfig) else None
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(key, f"cannot make {target}: {reason}", "check _target_ and its arguments") from error


def plain(node: Any) -> Any:
    """A config node as plain dicts and lists with all interpolations resolved.

    Raises:
        UserError: if a mandatory value is missing or an interpolation leads nowhere.
    """
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "config")
        raise UserError(key, str(error).splitlines()[0], "give it a value") from error


def dataset_config(name: str, key: str, parent: DictConfig | None = None) -> DictConfig:
    """The ``source`` of another data set, found by name in ``conf/dataset`` wherever Hydra looks for configs.

    Args:
        name: of the data set.
        key: config key that named it.
        parent: config that its interpolations are resolved in.

    Raises:
        UserError: naming ``key``, if there is none of this name.
    """
    if name not in (names := option_names("dataset")):
        raise UserError(key, f"no data set is called {name!r}", f"one of {listed(names)}, or a config with a _target_")
    loader: Any = GlobalHydra.instance().config_loader()
    found = loader.repository.load_config(f"dataset/{name}").config
    source: DictConfig = found.dataset.source
    if parent is not None:
        source._set_parent(parent)
    return source


def option_names(group: str) -> list[str]:
    """Names of a group's configs, wherever Hydra looks for configs."""
    names: list[str] = GlobalHydra.instance().config_loader().get_group_options(group)
    return names


def unmarked_config() -> DictConfig:
    """``watermark=none`` as it is shipped."""
    node = OmegaConf.merge(*(OmegaConf.load(CONF / "watermark" / f"{name}.yaml") for name in ("base", "none")))
    assert isinstance(node, DictConfig)
    node.pop("defaults")
    return node


def setting(value: Any, key: str, kind: type, low: float, high: float = float("inf")) -> Any:
    """Checks that a number is of a kind and within bounds.

    Raises:
        UserError: naming ``key``.
    """
    ok = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not ok or isinstance(value, bool) or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        bounds = f"of at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise UserError(key, f"{value!r} is out of range", f"{what} {bounds}")
    return value


def without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A copy of ``mapping`` without some keys."""
    return {key: value for key, value in mapping.items() if key not in keys}
