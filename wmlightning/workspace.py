"""``python -m wmlightning.workspace ENTITY/PROJECT``: what the report shows, as a saved view of a W&B project."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import get_class
from omegaconf import OmegaConf
from wandb.errors import Error as WandbError

from wmlightning.attacks.base import Attack
from wmlightning.config import CONF
from wmlightning.errors import UserError
from wmlightning.files import named
from wmlightning.loggers import has_api_key
from wmlightning.results.fields import cleaned

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

EXIT_FAILED = 1


def build(project: str, group: str | None = None, name: str | None = None, configs: Sequence[Path] = ()) -> Workspace:
    """Builds the workspace; asks nobody for anything.

    Args:
        project: ``ENTITY/PROJECT``.
        group: show the runs of this group alone.
        name: of the saved view; ``None``: made from the group.
        configs: further folders of configs, whose ``attack/`` may name attacks that are not ours.

    Returns:
        The workspace, whose ``save()`` makes the view.

    Raises:
        UserError: if ``project`` is none, W&B cannot filter for ``group``, or the library is not installed.
    """
    entity, slash, short = project.partition("/")
    if not (entity and slash and short) or "/" in short:
        raise UserError("project", f"{project!r} is none", "ENTITY/PROJECT, as in the address of its page")
    try:
        from wmlightning.panels import workspace
    except ImportError as error:
        if (error.name or "").split(".")[0] != "wandb_workspaces":
            raise
        wrong = "wandb_workspaces is not installed"
        raise UserError("workspace", wrong, "pip install 'wmlightning[wandb]'") from error
    title = name or " ".join(filter(None, ("wmlightning", group)))
    return workspace(entity, short, group, title, attacks_in([CONF, *configs]))


def attacks_in(folders: Sequence[Path]) -> dict[str, type[Attack]]:
    """The attacks that configs name, by what users call them.

    Raises:
        UserError: if a class that one names does not exist.
    """
    found: dict[str, type[Attack]] = {}
    for path in (path for folder in folders for path in sorted((folder / "attack").glob("*.yaml"))):
        target = OmegaConf.select(OmegaConf.load(path), "_target_")
        try:
            if target is not None:
                found[path.stem] = get_class(target)
        except (ImportError, ValueError) as error:
            wrong = f"there is no {target} ({str(error).splitlines()[0]})"
            raise UserError(f"attack.{path.stem}", wrong, "check _target_") from error
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the workspace and saves it, or prints it.

    Args:
        arguments: of the command line; the process's own by default.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        made = build(options.project, options.group, options.name, options.config_dir)
        if options.dry_run:
            print(json.dumps(made._spec, indent=2))
            return 0
        if not has_api_key():
            raise UserError("WANDB_API_KEY", "there is none", "`wandb login` first, or --dry-run")
        try:
            made.save()  # type: ignore[no-untyped-call]  # says where
        except (WandbError, OSError, ValueError) as error:
            wrong = f"W&B does not take the workspace ({str(error)[:200]})"
            raise UserError("project", wrong, "check entity, project, API key and network") from error
    except UserError as error:
        print(f"error: {cleaned(str(error), 4096)}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wmlightning.workspace",
        description="Saves a view of a W&B project that shows what the report shows: verdicts, models, a curve over "
        "strength for each attack, and what a thief pays for what is left of the watermark.",
        allow_abbrev=False,
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="as in the address of the project's page")
    parser.add_argument("--group", metavar="NAME", help="show the runs of this group alone (group= of the runs)")
    parser.add_argument("--name", help="of the view (default: wmlightning GROUP)")
    parser.add_argument(
        "--config-dir",
        metavar="FOLDER",
        type=named,
        action="append",
        default=[],
        help="folder of configs of your own: its attacks get sections too",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the view as JSON and save nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
