"""The command ``serve``: a stored model as a service."""

from __future__ import annotations

import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from wmlightning.choices import check_declared, check_typed
from wmlightning.config import CONF, path_of, plain, setting, targets_of
from wmlightning.errors import UserError


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="serve")
def _serve(cfg: DictConfig) -> None:
    try:
        run(cfg)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run(cfg: DictConfig) -> None:
    """Serves as the config says, until Ctrl-C.

    Raises:
        UserError: if it cannot be done.
    """
    check_declared(cfg, "serve")
    options: dict[str, Any] = plain(cfg)
    setting(options["port"], "port", int, 0, 65535)
    setting(options["max_batch"], "max_batch", int, 1)
    setting(options["max_body_mb"], "max_body_mb", float, 0.001, 2**20)
    for name in ("name", "host"):
        if not isinstance(options[name], str) or not options[name]:
            raise UserError(name, f"{options[name]!r} is no name", "a word")
    if "/" in options["name"] or options["name"] in (".", "..") or not options["name"].isprintable():
        raise UserError("name", f"{options['name']!r} is no part of an address", "a word without /")
    path_of(options["run"], "run")
    trust = targets_of(options["trust"], "trust")
    try:
        from wmlightning.ownership.server import ServedModel, create_app, run_server
    except ImportError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise UserError("serve", f"{error.name} is not installed", "pip install 'wmlightning[serve]'") from error
    from wmlightning.process import keep_freed_memory  # late: --help need not wait for torch
    from wmlightning.store import load_run

    keep_freed_memory()
    try:
        found = load_run(options["run"], trust=trust)
    except UserError as error:
        raise UserError("run", *map(str, error.args[1:])) from error
    model = ServedModel(found, options["name"], options["device"])
    app = create_app(model, options["max_batch"], options["max_body_mb"])
    run_server(app, options["host"], options["port"])


def serve() -> None:
    """Serves a stored model by the Open Inference Protocol v2."""
    try:
        check_typed("serve")
        _serve()
    except KeyboardInterrupt:  # the way to end it
        print("stopped", file=sys.stderr)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
