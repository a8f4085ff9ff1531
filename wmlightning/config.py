"""From a composed config to objects. The only place where Hydra's ``instantiate`` is called."""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from wmlightning.errors import UserError, listed
from wmlightning.files import named

_PACKAGE = Path(__file__).resolve().parent
#: In a wheel the configs travel inside the package; in a checkout they lie beside it.
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (folder / "train.yaml").is_file())


def make(node: Any, key: str, **arguments: Any) -> Any:
    """Builds what ``_target_`` names, with plain lists and dicts as arguments.

    Code of the user's is found as :func:`find_code` says.

    Args:
        node: a config node.
        key: where it stands, for error messages.
        **arguments: further arguments.

    Raises:
        UserError: if the target does not exist or refuses its arguments, or one of them leads nowhere.
    """
    find_code()
    try:
        return instantiate(node, _convert_="all", **arguments)
    except (InterpolationResolutionError, MissingMandatoryValue) as error:
        raise _open(error, key) from error
    except (InstantiationException, OmegaConfBaseException, TypeError) as error:  # the latter of a flag like _partial_
        cause = error.__cause__
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from error
            cause = cause.__cause__
        target = OmegaConf.select(node, "_target_") if isinstance(node, DictConfig) else None
        reason = " ".join(str(error.__cause__ or error).splitlines()[:2])  # Hydra's second line says why
        right = "check _target_ and its arguments"
        if unexpected := re.search(r"unexpected keyword argument '(\w+)'", reason):
            right += f": ~{key}.{unexpected[1]} leaves that one out"
        raise UserError(key, f"cannot make {target}: {reason}", right) from error


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
        raise _open(error, "config") from error


def _open(error: OmegaConfBaseException, key: str) -> UserError:
    """The mistake of a value that is missing, or an interpolation that leads nowhere."""
    return UserError(str(getattr(error, "full_key", "") or key), str(error).splitlines()[0], "give it a value")


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
    with searching():
        found = _loader().repository.load_config(f"dataset/{name}").config
    source: DictConfig = found.dataset.source
    if parent is not None:
        source._set_parent(parent)
    return source


def option_names(group: str) -> list[str]:
    """Names of a group's configs, wherever Hydra looks for configs."""
    with searching():
        names: list[str] = _loader().get_group_options(group)
    return names


def _loader() -> Any:
    """Hydra's, which is to look where ``hydra.searchpath`` says as well: Hydra forgets that once it has composed."""
    loader: Any = GlobalHydra.instance().config_loader()
    if HydraConfig.initialized():
        places = loader.get_search_path()
        there = [place.path for place in places.get_path()]
        more = [path for path in HydraConfig.get().searchpath if path not in there]
        for path in more:
            places.prepend("hydra.searchpath", path, SearchPathQuery(provider="schema"))
        if more:
            loader.repository.initialize_sources(places)
    return loader


def leaf(group: str, name: str) -> dict[str, Any]:
    """What a leaf says by itself, under the names that it has in the whole, with interpolations left open.

    It is looked for wherever Hydra looks for configs. Not to be changed: the next caller gets the same.

    Args:
        group: folder of the leaf.
        name: of the leaf.

    Returns:
        Plain content; empty if there is no such leaf, or it cannot be composed alone.
    """
    return _leaf(group, name, tuple(own_folders()))


@cache
def _leaf(group: str, name: str, _: tuple[Path, ...]) -> dict[str, Any]:
    try:
        with searching(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lists of defaults without _self_
            there = name in (*option_names(group), "base")  # which others build on, and which is not offered
            found = OmegaConf.to_container(compose(f"{group}/{name}")) if there else {}
    except (HydraException, OmegaConfBaseException, YAMLError):
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def leaf_with(group: str, target: str) -> str | None:
    """The name of a leaf with this ``_target_``, of those that :func:`leaf` finds: ours before the user's."""
    for folder in (CONF, *own_folders()):
        for path in sorted((folder / group).glob("*.yaml")):
            try:
                if OmegaConf.select(OmegaConf.load(path), "_target_") == target:
                    return path.stem
            except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError):  # it is not what was chosen
                continue
    return None


@contextmanager
def searching() -> Iterator[None]:
    """Lets Hydra find our configs where it was not started."""
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield


def own_folders() -> list[Path]:
    """Folders of configs that are the user's and not ours: what ``--config-dir`` and ``hydra.searchpath`` name."""
    if not GlobalHydra.instance().is_initialized():
        return []
    folders = [Path(source.path) for source in _loader().get_sources() if source.scheme() == "file"]
    return [folder for folder in folders if folder.resolve() != CONF]


def find_code(*folders: Path) -> None:
    """Lets Python find the user's code beside their configs (:func:`own_folders`), and in the working folder.

    Behind everything installed, so that a file of theirs never stands in for a library's.

    Args:
        *folders: further ones.
    """
    for folder in (*folders, *own_folders(), Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def shipped(group: str) -> list[dict[str, Any]]:
    """The configs of a group as they are shipped, whatever is composed; what they take from elsewhere is left open."""
    found = [OmegaConf.to_container(OmegaConf.load(path)) for path in sorted((CONF / group).glob("*.yaml"))]
    return [node[group] for node in found if isinstance(node, dict)]


def unmarked_config() -> DictConfig:
    """``watermark=none`` as it is shipped."""
    node = OmegaConf.merge(*(OmegaConf.load(CONF / "watermark" / f"{name}.yaml") for name in ("base", "none")))
    assert isinstance(node, DictConfig)
    node.pop("defaults")
    return node


def check_finite(node: Any, key: str = "") -> None:
    """Checks that all numbers of a plain config are numbers.

    Raises:
        UserError: naming the first that is infinite or none.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            check_finite(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            check_finite(value, key)
    elif isinstance(node, float) and not math.isfinite(node):
        raise UserError(key, f"{node} is out of range", "a finite number")


def setting(value: Any, key: str, kind: type, low: float, high: float = float("inf")) -> Any:
    """Checks that a number is finite, of a kind and within bounds.

    Raises:
        UserError: naming ``key``.
    """
    ok = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not ok or isinstance(value, bool) or not low <= value <= high or value == float("inf"):
        what = "a whole number" if kind is int else "a number"
        bounds = f"of at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise UserError(key, f"{value!r} is out of range", f"{what} {bounds}")
    return value


def switch(value: Any, key: str) -> bool:
    """Checks that a value is true or false: ``no`` is a word to Hydra, and any word counts as true to Python.

    Raises:
        UserError: naming ``key``.
    """
    if not isinstance(value, bool):
        raise UserError(key, f"{value!r} is neither", "true or false")
    return value


# In configs, where the shell leaves ~ alone: conf/hydra/default.yaml.
OmegaConf.register_new_resolver("home", lambda value: str(named(str(value))), replace=True)

#: Files and folders that parts of a config are given as they stand; what else names one calls ``path_of``.
_PATHS = (
    *("data_dir", "runs_dir", "dataset.root", "dataset.source.root", "dataset.source.data_dir", "attacker.root"),
    *("watermark.logo", "callbacks.gallery.path"),
)


def at_home(cfg: DictConfig) -> DictConfig:
    """A copy in which ``~`` at the beginning of files and folders is resolved: shells do not, in ``KEY=~/NAME``.

    Raises:
        UserError: for the home of nobody.
    """
    cfg = cfg.copy()
    for key in (*_PATHS, *(f"logger.{name}.save_dir" for name in cfg.get("logger") or ())):
        with suppress(OmegaConfBaseException):  # what leads nowhere is told of by whoever needs it
            if str(value := OmegaConf.select(cfg, key)).startswith("~"):
                OmegaConf.update(cfg, key, str(path_of(value, key)))
    return cfg


def path_of(value: Any, key: str) -> Path:
    """Checks that a value names a file or folder, and gives it with ``~`` resolved.

    Raises:
        UserError: naming ``key``.
    """
    if not isinstance(value, (str, Path)):
        raise UserError(key, f"{value!r} names no file or folder", "a path, in quotes if it is a number")
    try:
        path = Path(value).expanduser()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:  # ~somebody, or what no file system knows or shows
        reason = getattr(error, "strerror", None) or error
        raise UserError(key, f"{str(value)[:100]!r} cannot be looked at ({reason})", "a path") from error
    return path


def targets_of(value: Any, key: str) -> tuple[str, ...]:
    """Checks a list of dotted names.

    Raises:
        UserError: naming ``key``.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UserError(key, f"{value!r} is no list of names", "a list: [module.Name], or []")
    return tuple(value)


def per_channel(values: Any, key: str, channels: int) -> list[float]:
    """Checks a list of a number for each channel, or of one for all of them, and gives one for each.

    Raises:
        UserError: naming ``key``.
    """
    ok = isinstance(values, list) and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    if not ok or len(values) not in (1, channels):
        raise UserError(key, f"{values!r} for {channels} channels", "a list of one number for each channel")
    return list(values) * (channels // len(values))


def without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A copy of ``mapping`` without some keys."""
    return {key: value for key, value in mapping.items() if key not in keys}


@contextmanager
def from_elsewhere(key: str) -> Iterator[None]:
    """What a config that others wrote lacks, or has of the wrong kind, is their mistake: told in one line.

    Raises:
        UserError: naming ``key``.
    """
    try:
        yield
    except (OmegaConfBaseException, LookupError, TypeError, AttributeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        wrong = f"its config is not whole ({type(error).__name__}: {reason})"
        raise UserError(key, wrong, "what wmlightning wrote, unaltered") from error


def check_targets(node: Any, key: str, trust: Sequence[str] = ()) -> None:
    """Refuses a config from elsewhere that names what no config here does: a ``_target_`` is code by another name.

    What is here are our configs, and those in the folder that this command's ``--config-dir`` names.

    Args:
        node: plain dicts and lists.
        key: config key that the file was named by.
        trust: further targets.

    Raises:
        UserError: for an unknown target, or an interpolation (which could read the environment).
    """
    if isinstance(trust, str) or not all(isinstance(target, str) for target in trust):
        raise UserError("trust", f"{trust!r} is something else", "a list of names: [package.Class]")
    allowed = shipped_targets().union(trust, *map(named_targets, own_folders()))
    for name, value in _leaves(node):
        if isinstance(value, str) and "${" in value:
            raise UserError(key, f"its config holds an interpolation: {value[:60]!r}", "a card with plain values")
        if name == "_target_" and value is not None and value not in allowed:
            wrong = f"its config would run {str(value)[:80]!r}, which is not ours"
            raise UserError(key, wrong, f"trust=[{str(value)[:80]}], if you know it and who wrote the card")


@cache
def shipped_targets() -> frozenset[str]:
    """Every ``_target_`` that a config of ours names."""
    return named_targets(CONF)


def named_targets(folder: Path) -> frozenset[str]:
    """Every ``_target_`` that a leaf's config in a folder (``GROUP/NAME.yaml``) names.

    Raises:
        UserError: if one of the files is no config.
    """
    found = set()
    for path in sorted(folder.glob("*/*.yaml")):
        try:
            content = OmegaConf.to_container(OmegaConf.load(path))
        except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
            wrong = f"{path} cannot be read ({str(error).splitlines()[0]})"
            raise UserError("config_dir", wrong, "a config in YAML, or another folder") from error
        found |= {str(value) for name, value in _leaves(content) if name == "_target_"}
    return frozenset(found)


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield "", key  # a key may hold an interpolation too
            yield from _leaves(value, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, name)
    else:
        yield name, node


def placed(node: Any, data_dir: str) -> Any:
    """A plain config from another machine, with data where this machine has them."""
    if isinstance(node, dict):
        return {k: data_dir if k == "data_dir" else placed(v, data_dir) for k, v in node.items()}
    return [placed(value, data_dir) for value in node] if isinstance(node, list) else node
