"""One attack on one victim: settled before anything is trained, then carried out, measured and stored."""

from __future__ import annotations

import copy
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor, nn

from wmlightning.attacks.base import Arithmetic, Attack, ClaimAttack, DetectionAttack, RemovalAttack, Stolen, Surrogate
from wmlightning.attacks.claims import hear_all
from wmlightning.attacks.exposure import EXPOSURE_VERSION, Marks, expose, picture
from wmlightning.attacks.judge import Judge, digest
from wmlightning.config import dataset_config, make, option_names, plain, setting, switch
from wmlightning.data.batches import Loading
from wmlightning.data.decoding import fit_images
from wmlightning.data.source import Source
from wmlightning.errors import UserError, listed
from wmlightning.files import write_bytes
from wmlightning.identity import portable
from wmlightning.job import Job
from wmlightning.results.card import PICTURE, environment, fingerprint, read_card, write_card
from wmlightning.results.front import best_bargain
from wmlightning.seeds import generator, role_seed

#: Raise it when the same attack no longer gives the same result.
_ATTACK_VERSION = 1
#: Raise it when the same claim is no longer worth the same.
_CLAIM_VERSION = 2


@dataclass(frozen=True)
class Victim:
    """A trained network that is to be attacked.

    Attributes:
        name: of its run.
        fingerprint: names the trained model.
        folder: where the results of attacks on it are kept.
    """

    name: str
    fingerprint: str
    folder: Path


@dataclass(frozen=True)
class Assault:
    """A settled attack.

    Attributes:
        name: what the user calls it.
        attack: what is done.
        victim: to whom.
        other: whose images the thief has, if not the attacker's half of the test split.
        identity: what determines the result.
    """

    name: str
    attack: Attack
    victim: Victim
    other: Source | None
    identity: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Names the result."""
        return fingerprint(self.identity)

    @property
    def folder(self) -> Path:
        """Where the result is kept."""
        return self.victim.folder / "attacks" / f"{self.name}-{self.fingerprint}"

    def finished(self) -> dict[str, Any] | None:
        """The card of this very attack, if it was carried out before."""
        card = read_card(self.folder)
        return card if card is not None and card.get("fingerprint") == self.fingerprint else None


def plan(job: Job, victim: Victim) -> list[Assault]:
    """Settles the attacks that the config asks for, without reading images.

    Raises:
        UserError: for a mistake in ``attack`` or ``attacker``.
    """
    cfg = job.cfg
    setting(cfg.attacker.seed, "attacker.seed", int, 0, 2**63 - 1)
    setting(cfg.judge.n_strangers, "judge.n_strangers", int, 1)
    if cfg.attacker.n is not None:
        setting(cfg.attacker.n, "attacker.n", int, 2)
    for name in ("unmarked", "keep_surrogates"):
        switch(cfg.judge[name], f"judge.{name}")
    other: Source | None = None
    if cfg.attacker.data is not None:
        other = make(dataset_config(str(cfg.attacker.data), "attacker.data", cfg), "attacker.data")
    return [_assault(job, victim, str(name), node, other) for name, node in cfg.attack.items() if _is_meant(name, node)]


def _is_meant(name: Any, node: Any) -> bool:
    """Whether an attack is asked for, or ``++attack.NAME.option=`` was said for other jobs of a sweep.

    Raises:
        UserError: if there is no attack of this name.
    """
    if isinstance(node, DictConfig) and node.get("_target_") is not None:
        return True
    if name in (names := option_names("attack")):
        return False
    raise UserError(f"attack.{name}", "there is no such attack", f"one of {listed(names)}, or a config with a _target_")


def _assault(job: Job, victim: Victim, name: str, node: Any, other: Source | None) -> Assault:
    key, cfg = f"attack.{name}", job.cfg
    attack = make(node, key)
    if not isinstance(attack, (RemovalAttack, DetectionAttack, ClaimAttack)):
        right = "a class derived from RemovalAttack, DetectionAttack or ClaimAttack"
        raise UserError(f"{key}._target_", f"{node.get('_target_')} is no attack", right)
    if getattr(attack, "labels", None) == "own" and other is not None and other.classes != job.source.classes:
        raise UserError(f"{key}.labels", f"{other.name} has other classes than {job.source.name}", "victim")
    identity: dict[str, Any] = {
        "version": _ATTACK_VERSION,
        "victim": victim.fingerprint,
        "attack": portable(plain(node)),
        "attacker": {"seed": cfg.attacker.seed, "n": cfg.attacker.n, "data": other.identity() if other else None},
        "precision": job.precision,
    }
    if isinstance(attack, ClaimAttack):
        identity["claims"] = _CLAIM_VERSION
    if isinstance(attack, DetectionAttack):
        identity["judge"] = {"n_strangers": cfg.judge.n_strangers, "unmarked": cfg.judge.unmarked}
        identity["exposure"] = EXPOSURE_VERSION
    return Assault(name, attack, victim, other, identity)


class Scene:
    """Everything that attacks on one victim share: read once, and only when an attack is really carried out.

    Args:
        job: the victim's.
        network: the victim's, with its weights; floats in [0, 1] to logits.
        unmarked: gives the unmarked model's network, or ``None`` where there is none to compare with.
    """

    def __init__(self, job: Job, network: nn.Module, unmarked: Callable[[], nn.Module | None]) -> None:
        self.job = job
        self.unmarked = unmarked
        autocast = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(job.precision)
        self.arithmetic = Arithmetic(torch.device(job.device), autocast, bool(job.cfg.recipe.channels_last))
        self.network = self._ready(network)
        triggers = job.maker.make() if job.maker else None
        watched = {}
        if triggers:
            watched = {"trigger": triggers.trained, "trigger_new": triggers.new, "decoy": triggers.decoys}
        loading = Loading(num_workers=job.cfg.recipe.num_workers, eval_batch_size=job.cfg.recipe.eval_batch_size)
        measured = list(job.labels.measured)
        self.judge = Judge(job.source, job.roles.judge, watched, measured, job.n_groups, self.arithmetic, loading)
        self.victim_metrics = self.judge.measure(self.network)

    def _ready(self, network: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.arithmetic.channels_last else torch.contiguous_format
        return network.to(self.arithmetic.device).to(memory_format=layout).eval()

    def stolen(self, assault: Assault, network: nn.Module | None = None) -> Stolen:
        """What the thief gets: a copy of the network, their own images, and nothing else."""
        job, cfg = self.job, self.job.cfg
        seed = role_seed(cfg.attacker.seed, "attack")
        labels: Tensor | None
        if assault.other is None:
            source, index = job.source, job.roles.attacker
            split = "test"
        else:
            source, index = assault.other, torch.arange(len(assault.other.labels("train")))
            split = "train"
        if cfg.attacker.n is not None:
            order = torch.randperm(len(index), generator=generator(seed, "thief/images"))
            index = index[order[: cfg.attacker.n]].sort().values
        images = fit_images(source.images(split, index), job.source.shape)  # type: ignore[arg-type]
        labels = source.labels(split)[index] if source.classes == job.source.classes else None  # type: ignore[arg-type]
        stolen = copy.deepcopy(self._ready(network) if network is not None else self.network)
        return Stolen(stolen, images.clone(), labels, len(job.source.classes), seed, self.arithmetic)


def carry_out(assault: Assault, scene: Callable[[], Scene], force: bool) -> tuple[dict[str, Any], bool]:
    """Does what the assault says, unless it was done before.

    Args:
        assault: the settled attack.
        scene: makes, or gives again, what is needed to do it.
        force: do it again.

    Returns:
        The card, and whether it was there before.
    """
    if not force and (card := assault.finished()) is not None:
        return card, True
    assault.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(assault.folder / ".lock"):
        if not force and (card := assault.finished()) is not None:  # somebody else was faster
            return card, True
        _clear(assault.folder)
        here = scene()
        before = digest(here.network)
        with _reproducible(role_seed(here.job.cfg.attacker.seed, "attack", 1), here.arithmetic.device):
            stolen = here.stolen(assault)
            n_images = len(stolen.images)
            if isinstance(assault.attack, RemovalAttack):
                found = _remove(assault, assault.attack, here, stolen)
            elif isinstance(assault.attack, ClaimAttack):
                found = hear_all(assault.attack, stolen, here.network)
            else:
                found = _detect(assault, assault.attack, here, stolen)
        if digest(here.network) != before:
            raise RuntimeError(f"attack {assault.name} changed its victim: it must work on copies")
        card = {**_card(assault, here, n_images), **found}
        write_card(assault.folder, card)
    return card, False


def _remove(assault: Assault, attack: RemovalAttack, scene: Scene, stolen: Stolen) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    judging = spent = 0.0
    started = time.monotonic()
    for number, surrogate in enumerate(attack.run(stolen)):
        seconds = time.monotonic() - started
        spent += seconds
        before = rows[-1]["seconds"] if surrogate.continued and rows else 0.0
        row = _row(surrogate, before + seconds)
        row["metrics"] = scene.judge.measure(surrogate.network)
        if scene.job.cfg.judge.keep_surrogates:
            row["weights"] = f"surrogate-{number:03d}.safetensors"
            write_bytes(assault.folder / row["weights"], save(plain_weights(surrogate.network)))
        if rows:
            rows[-1]["final"] = not surrogate.continued
        rows.append(row)
        judging += time.monotonic() - started - seconds
        started = time.monotonic()
    if not rows:
        raise RuntimeError(f"attack {assault.name} yielded no surrogate")
    return {
        "type": "removal",
        "strength": {"name": attack.strength_name, "scale": attack.strength_scale},
        "curve": rows,
        "metrics": _headline(rows, scene.victim_metrics),
        "seconds": {"attack": round(spent, 2), "judge": round(judging, 2)},
    }


def _row(surrogate: Surrogate, seconds: float) -> dict[str, Any]:
    return {
        "strength": surrogate.strength,
        "epochs": surrogate.epochs,
        "settings": dict(surrogate.settings),
        "final": True,
        "seconds": round(seconds, 3),
        "images": surrogate.n_images,
        "queries": surrogate.n_queries,
        "weights": None,
        "measured": dict(surrogate.measured),
    }


def _headline(rows: list[dict[str, Any]], victim: dict[str, float]) -> dict[str, float]:
    """The thief's best bargain: the fewest new triggers among surrogates that lose little clean accuracy."""
    clean = [row["metrics"]["attack/clean_acc"] for row in rows]
    left = [row["metrics"].get("attack/trigger_new_acc", 0.0) for row in rows]
    best = rows[best_bargain(victim["attack/clean_acc"], clean, left)]
    return {**best["metrics"], "attack/strength": best["strength"], "attack/epochs": best["epochs"]}


def _detect(assault: Assault, attack: DetectionAttack, scene: Scene, stolen: Stolen) -> dict[str, Any]:
    started = time.monotonic()
    recovered = attack.run(stolen)
    seconds = time.monotonic() - started
    unmarked = scene.unmarked()
    twin = attack.run(scene.stolen(assault, unmarked)) if unmarked is not None else None
    started = time.monotonic()
    findings: dict[str, Any] = {"picture": PICTURE, "steps": recovered.steps, "twin": None}
    if scene.job.maker is not None:
        marks = Marks.of(scene.job.maker, scene.job.cfg.judge.n_strangers)
        findings.update(expose(recovered, marks))
        if twin is not None:
            findings["twin"] = expose(twin, marks)
    buffer = io.BytesIO()
    picture(recovered, twin, scene.job.source.classes).savefig(buffer, format="png", dpi=120)
    write_bytes(assault.folder / PICTURE, buffer.getvalue())
    write_bytes(
        assault.folder / "recovered.safetensors",
        save({"images": recovered.images.contiguous(), "confidence": recovered.confidence.contiguous()}),
    )
    names = ("score", "p_value", "ssim", "ssim_p_value")
    return {
        "type": "detection",
        "findings": findings,
        "metrics": {f"attack/{name}": findings[name] for name in names if name in findings},
        "seconds": {"attack": round(seconds, 2), "judge": round(time.monotonic() - started, 2)},
    }


def _card(assault: Assault, scene: Scene, n_images: int) -> dict[str, Any]:
    job = scene.job
    cfg = plain(job.cfg)
    names = ("seed", "dataset", "watermark", "model", "recipe", "trainer", "tags", "attacker", "judge")
    config = {name: cfg[name] for name in names}
    if began := (read_card(assault.victim.folder) or {}).get("start"):  # not what was trained from scratch: for tables
        config["start"] = began
    return {
        "kind": "attack",
        "name": f"{assault.victim.name}/{assault.name}-{assault.fingerprint}",
        "attack": assault.name,
        "fingerprint": assault.fingerprint,
        "identity": assault.identity,
        "victim": {
            "name": assault.victim.name,
            "fingerprint": assault.victim.fingerprint,
            "metrics": scene.victim_metrics,
        },
        "data": {**job.source.identity(), "attacker": n_images, "judge": len(job.roles.judge)},
        "seed": job.seed,
        "device": job.device,
        "threads": torch.get_num_threads(),
        "precision": job.precision,
        "group": cfg["auto"]["group"],
        "config": {**config, "attack": {assault.name: cfg["attack"][assault.name]}},
        "environment": environment(),
    }


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """A network's state as safetensors wants it: on the processor, each tensor in one piece of its own."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in network.state_dict().items()}


def _clear(folder: Path) -> None:
    """Removes what a killed or older attempt left, the lock excepted."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Global random numbers from ``seed``, deterministic kernels; both as before afterwards."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, as Lightning sets it
    strict, lenient = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=lenient)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
