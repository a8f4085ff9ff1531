"""The suspects that a config names: one, or several with what each has of its own."""

from __future__ import annotations

from hydra import compose
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmlightning.config import make, option_names, plain
from wmlightning.errors import UserError, listed
from wmlightning.ownership.suspects.base import Suspect


def suspects_of(cfg: DictConfig) -> list[Suspect]:
    """Makes ``suspect``, or one for each entry of ``suspects``, which is merged over it. Nothing is opened.

    Args:
        cfg: composed from ``conf/verify.yaml``. An entry may choose another kind: ``{suspect: oip, url: ...}``.

    Raises:
        UserError: naming the entry, for a mistake in it.
    """
    nodes = [(cfg.suspect, "suspect")]
    if cfg.suspects:
        nodes = [(_merged(cfg, i), f"suspects[{i}]") for i in range(len(cfg.suspects))]
    made = []
    for node, key in nodes:
        try:
            suspect = make(node, key)
        except UserError as error:
            first, dot, rest = error.key.partition(".")  # such as `suspect.url`, as if there were but one
            raise UserError(f"{key if first == 'suspect' else first}{dot}{rest}", *error.args[1:]) from error
        if not isinstance(suspect, Suspect):
            raise UserError(f"{key}._target_", "it makes no suspect", "a class derived from Suspect")
        made.append(suspect)
    return made


def _merged(cfg: DictConfig, i: int) -> DictConfig:
    key, entry = f"suspects[{i}]", plain(cfg.suspects[i])
    if not isinstance(entry, dict):
        typed = OmegaConf.to_container(cfg.suspects, resolve=False)  # not what stands in an environment variable
        raise UserError(key, f"{typed[i]!r} is no mapping", "such as {path: runs/A}")  # type: ignore[index]
    node: DictConfig = cfg.suspect.copy()
    kind = entry.pop("suspect", None)
    if kind is not None:
        if kind not in (names := option_names("suspect")):
            raise UserError(f"{key}.suspect", f"no suspect is called {kind!r}", f"one of {listed(names)}")
        node = compose("verify", [f"suspect={kind}"]).suspect
    try:
        OmegaConf.set_struct(node, True)
        node.merge_with(entry)
    except OmegaConfBaseException as error:
        right = f"options of suspect={kind}" if kind else "options of the suspect that is chosen"
        raise UserError(key, str(error).splitlines()[0], right) from error
    return node
