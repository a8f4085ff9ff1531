"""What can be chosen by name: the options that Hydra offers, and the mistakes of choosing none."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from wmlightning.composing import check_composes
from wmlightning.config import CONF, plain
from wmlightning.errors import UserError, listed
from wmlightning.files import named


class FileConfigSource(file_config_source.FileConfigSource):
    """Offers what lies deeper in a group's folder too, such as ``asiaccs2018/paper``.

    What says ``# @part true`` is there for other configs to build on, and not offered. Error messages, ``--help``,
    completion and ``glob`` all ask here.
    """

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the groups or configs in a folder."""
        if config_path.partition("/")[0] in ("", "hydra"):  # groups; Hydra's own lie within one another
            return super().list(config_path, results_filter)
        if results_filter == ObjectType.GROUP:
            return []
        folder = Path(self.path, config_path)
        found = {path.relative_to(folder): path for path in sorted(folder.rglob("*.yaml")) if path.is_file()}
        shown = {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)}
        return [name.with_suffix("").as_posix() for name, path in shown.items() if not _is_part(path)]


def _is_part(path: Path) -> bool:
    return re.search(r"^# @part\b", path.read_text(errors="replace"), re.MULTILINE) is not None


# Under the same name as Hydra's own, whose plugins are registered later: it keeps those that it knows by name.
SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource


#: ``KEY=~/NAME``, which shells leave alone and Hydra's grammar refuses.
_AT_HOME = re.compile(r"^([^=]+=)~(?=/|$)")

#: What Hydra is asked for, one thing at a time.
_COMMANDS = ("run", "multirun", "cfg", "info", "shell_completion")


def check_typed(config_name: str) -> None:
    """Checks this command's overrides before Hydra composes them: of some it tells in a traceback. Resolves ``~``.

    Args:
        config_name: of the command's config.

    Raises:
        UserError: for what is no override, or chooses what a group does not offer; for a folder that is none, and
            commands of Hydra's that exclude one another.
    """
    sys.argv[1:] = [_AT_HOME.sub(lambda found: f"{found[1]}{named('~')}", argument) for argument in sys.argv[1:]]
    arguments = _arguments()
    config_name = arguments.config_name or config_name
    places = create_config_search_path(str(CONF / (arguments.config_path or "")))
    if arguments.config_dir is not None:
        own = Path(arguments.config_dir).absolute()
        if not own.is_dir():
            raise UserError("--config-dir", f"{own} is no folder", "the folder that your configs are in")
        places.prepend("command-line", f"file://{own}", SearchPathQuery(provider="schema"))
    loader = ConfigLoaderImpl(places)
    try:
        typed = OverridesParser.create(loader).parse_overrides(arguments.overrides)
    except OverrideParseException as error:
        wrong = f"it is no setting ({' '.join(str(error).splitlines()[:-1])})"  # the last names a page of Hydra's
        raise UserError(error.override, wrong, "KEY=VALUE, +KEY=VALUE or ~KEY, in quotes where needed") from error
    more_places = [text for text in arguments.overrides if text.startswith("hydra.searchpath=")]
    for override in typed:
        key = override.key_or_group
        if not key:
            raise UserError(str(override.input_line), "it sets nothing", "KEY=VALUE")
        if override.is_delete() or isinstance(override.value(), dict):  # the latter are single options of the choice
            continue
        try:
            options = loader.get_group_options(key, ObjectType.CONFIG, config_name, more_places)
        except ConfigCompositionException as error:
            raise UserError("hydra.searchpath", str(error), "[file:///FOLDER]") from error
        if options:
            _check_choices(override, options)
    if not arguments.shell_completion:
        check_composes(loader, config_name, typed, arguments.multirun)


def _arguments() -> Namespace:
    """Parses this command, and sorts it for Hydra, which refuses flags that stand among overrides."""
    arguments = get_args_parser().parse_intermixed_args()
    flags, settings = [], list(arguments.overrides)
    for word in sys.argv[1:]:
        if settings and word == settings[0]:
            settings.pop(0)
        else:
            flags.append(word)
    sys.argv[1:] = [*arguments.overrides, *flags]
    asked = [f"--{name.replace('_', '-')}" for name in _COMMANDS if getattr(arguments, name) not in (None, False)]
    if len(asked) > 1:
        raise UserError(asked[1], f"{asked[0]} is said too", "one of them")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise UserError("--resolve", "there is nothing to show", "--cfg job --resolve")
    return arguments


def _check_choices(override: Override, options: list[str]) -> None:
    for chosen in _choices(override.value()):
        if chosen not in options:
            shown = "null" if chosen is None else repr(chosen)
            right = f"one of {listed(options)}" + ("" if "none" in options else ", or leave it out")
            raise UserError(override.key_or_group, f"{shown} is no option", right)


def _choices(value: Any) -> list[Any]:
    if isinstance(value, ChoiceSweep):
        return [choice for part in value.list for choice in _choices(Override._convert_value(part))]
    if isinstance(value, list):
        return value
    return [value] if value is None or isinstance(value, (str, int, float)) else []  # else a glob or a range


#: Parts of a config that an option may stand in, and those that may hold nothing.
_SECTIONS = ("dataset", "dataset.source", "watermark", "model", "recipe", "trainer", "guard", "attacker", "judge")
_LISTS = ("attack", "logger", "callbacks")


#: Further keys that a command reads, whatever was chosen.
_READ = {
    "train": (
        *(f"dataset.{name}" for name in ("name", "source_class", "target_class", "mean", "std", "val_share")),
        *(f"watermark.{name}" for name in ("n_triggers", "n_marks", "negatives")),
    ),
    "verify": ("suspect", "logger"),
}


def check_declared(cfg: DictConfig, *names: str) -> None:
    """Checks that what configs of ours declare is there: ``~KEY`` takes it out, and a file of the user's may lack it.

    Args:
        cfg: composed.
        names: of configs without a package of their own, such as ``train``.

    Raises:
        UserError: naming the first key that is missing.
    """
    declared: list[str] = []
    for name in names:
        declared += _READ.get(name, ())
        node = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
        assert isinstance(node, dict)
        for key, part in ((str(key), part) for key, part in node.items() if key not in ("defaults", "hydra")):
            declared += [key, *(f"{key}.{inner}" for inner in (part if isinstance(part, dict) else ()))]
    for key in declared:
        above, _, last = key.rpartition(".")
        found = OmegaConf.select(cfg, above) if above else cfg
        if isinstance(found, DictConfig) and last not in found.keys():  # noqa: SIM118 (what is ??? counts as not in it)
            raise UserError(key, "it is left out", "give it a value")


def check_sections(cfg: DictConfig) -> None:
    """Checks that all parts of a config are there as such.

    Raises:
        UserError: for ``PART=null`` (but of ``logger``, which there may be none of), ``PART=[]``, ``PART=word`` or
            ``~PART``.
    """
    for key in (*_SECTIONS, *_LISTS):
        found = OmegaConf.select(cfg, key)
        if not isinstance(found, DictConfig) and not (key == "logger" and key in cfg and found is None):
            right = f"{key}=none" if key in _LISTS else f"{key}.OPTION=VALUE, or nothing"
            raise UserError(key, f"{plain(found)!r} is no set of options", right)
    check_declared(cfg, "train", "paths/default", "recipe/base")
