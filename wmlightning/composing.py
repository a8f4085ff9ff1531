"""What is typed is composed before Hydra does it, which tells of a mistake in several lines, and of no way out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from wmlightning.errors import UserError, listed, reason_of

#: How Hydra tells of a plus too much.
_THERE = ("Multiple values for", "Could not append to config", "force-add of config groups")


def check_composes(loader: ConfigLoaderImpl, config_name: str, typed: Sequence[Override], multirun: bool) -> None:
    """Composes the config of a command; of a sweep, that of its first job.

    Args:
        loader: knows where configs are.
        config_name: of the command's config.
        typed: overrides, parsed.
        multirun: whether a sweep was asked for.

    Raises:
        UserError: for a setting that there is no option for, ``+`` and ``~`` in the wrong place, several values without
            a sweep, and whatever else Hydra refuses.
    """
    single = [_single(override) for override in typed]
    try:
        cfg = loader.load_configuration(config_name, single, RunMode.RUN)
    except HydraException as error:
        raise _in_one_line(error, loader, config_name, typed) from error
    if multirun or cfg.hydra.mode == RunMode.MULTIRUN:
        return
    for override in typed:
        if override.is_sweep_override():
            wrong = f"{override.get_value_string()} are several values"
            right = "-m to sweep over them, [A,B] for a list, or quotes around them"
            raise UserError(override.key_or_group, wrong, right)


def _single(override: Override) -> str:
    """The override, with the first of several values."""
    if not override.is_sweep_override():
        return str(override.input_line)
    values = override.value()
    first = values.start if isinstance(values, IntervalSweep) else next(override.sweep_string_iterator(), None)
    if first is None:
        raise UserError(override.key_or_group, f"{override.get_value_string()} is nothing", "at least one value")
    return f"{override.get_key_element()}={first}"


def _in_one_line(
    error: HydraException, loader: ConfigLoaderImpl, config_name: str, typed: Sequence[Override]
) -> UserError:
    told = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    told = told or [reason_of(Exception(error.__cause__))]
    words = {word.strip("+~.") for word in re.split(r"[\s'=]", told[0])}
    blamed = next((one for one in typed if one.get_key_element().lstrip("+~") in words), None)
    if blamed is None:
        return UserError(config_name, told[0], " ".join(told[1:]) or "as in the documentation of Hydra")
    key, line = blamed.key_or_group, str(blamed.input_line)
    if told[0].startswith(_THERE):
        return UserError(line, "it is there already", line.lstrip("+"))
    if blamed.is_delete():
        return UserError(line, told[0].removeprefix("Could not delete from config. "), "leave it out")
    if isinstance(error.__cause__, (ConfigKeyError, ConfigAttributeError)) and "/" not in key:
        places = [str(one.input_line) for one in typed if one.key_or_group == "hydra.searchpath"]
        groups = [_single(one) for one in typed if _is_choice(one, loader, config_name, places)]
        cfg = OmegaConf.to_container(loader.load_configuration(config_name, places + groups, RunMode.RUN))
        assert isinstance(cfg, dict)
        key = error.__cause__.full_key or key
        return UserError(key, "there is no such option", _instead(cfg, key))
    why = f" ({reason_of(Exception(error.__cause__))})" if error.__cause__ else ""
    return UserError(line, f"{told[0]}{why}", "a group or an option that --help shows")


def _is_choice(override: Override, loader: ConfigLoaderImpl, config_name: str, places: list[str]) -> bool:
    options = loader.get_group_options(override.key_or_group, ObjectType.CONFIG, config_name, places)
    return bool(options) and not isinstance(override.value(), dict)


def _instead(cfg: dict[Any, Any], key: str) -> str:
    """Where an option of this name is, or one of a similar name; else what there is in its place."""
    node, path, unknown = cfg, "", key.split(".")
    while len(unknown) > 1 and isinstance(node.get(unknown[0]), dict):
        node, path, unknown = node[unknown[0]], f"{path}{unknown[0]}.", unknown[1:]
    if unknown[0] in node:
        return f"{path}{unknown[0]} itself, which holds no options"
    names = [str(name) for name in node if path or name != "hydra"]
    alike = [place for place in _places(cfg) if place.rpartition(".")[2] == unknown[-1]]
    alike = alike or [path + name for name in get_close_matches(unknown[0], names, 1)]
    if alike or not names:
        return listed(alike, 3) or "leave it out"
    more = f", or +{key}=VALUE if {node['_target_']} takes it" if "_target_" in node else ""
    return f"one of {listed(names, 30)}{more}"


def _places(node: dict[Any, Any], path: str = "") -> Iterator[str]:
    for name, part in node.items():
        if path or name != "hydra":
            yield f"{path}{name}"
            yield from _places(part, f"{path}{name}.") if isinstance(part, dict) else ()
