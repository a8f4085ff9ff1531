"""One attack on one victim: carried out, measured and stored."""

from __future__ import annotations

import copy
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from filelock import FileLock
from omegaconf import OmegaConf
from safetensors.torch import save
from torch import Tensor, nn

from wmlightning.attacks.base import Arithmetic, ClaimAttack, DetectionAttack, RemovalAttack, Stolen, Surrogate
from wmlightning.attacks.belongings import chosen
from wmlightning.attacks.claims import hear_all
from wmlightning.attacks.exposure import Marks, expose, picture
from wmlightning.attacks.judge import Judge, digest
from wmlightning.attacks.planning import Assault
from wmlightning.attacks.twin import Twin, recover
from wmlightning.config import plain
from wmlightning.data.decoding import fit_images
from wmlightning.data.loading import Loading
from wmlightning.files import anew, settle, write_bytes
from wmlightning.job import Job
from wmlightning.results.card import PICTURE, environment, read_card, write_card
from wmlightning.results.fields import Fields
from wmlightning.results.front import best_bargain
from wmlightning.results.rows import judged_by, key_name
from wmlightning.seeds import role_seed


class Scene:
    """Everything that attacks on one victim share: read once, and only when an attack is really carried out.

    Args:
        job: the victim's.
        network: the victim's, with its weights; floats in [0, 1] to logits.
        unmarked: gives the unmarked model, or ``None`` where there is none to compare with.
    """

    def __init__(self, job: Job, network: nn.Module, unmarked: Callable[[], Twin | None]) -> None:
        self.job = job
        self.unmarked = unmarked
        autocast = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(job.precision)
        self.arithmetic = Arithmetic(_device(job), autocast, bool(job.cfg.recipe.channels_last))
        self.network = self._ready(network)
        triggers = job.maker.make() if job.maker else None
        watched = {}
        if triggers:
            watched = {"trigger": triggers.trained, "trigger_new": triggers.new, "decoy": triggers.decoys}
        recipe, where = job.cfg.recipe, self.arithmetic.device
        loading = Loading(recipe.num_workers, recipe.eval_batch_size, device=where)
        measured = list(job.labels.measured)
        self.judge = Judge(job.source, job.roles.judge, watched, measured, job.n_groups, self.arithmetic, loading)
        self.victim_metrics = self.judge.measure(self.network)

    def _ready(self, network: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.arithmetic.channels_last else torch.contiguous_format
        return network.to(self.arithmetic.device).to(memory_format=layout).eval()

    def stolen(self, assault: Assault, network: nn.Module | None = None) -> Stolen:
        """What the thief gets: a copy of the network, their own images, and nothing else."""
        job, cfg = self.job, self.job.cfg
        if (others := assault.others) is None:
            source, index = job.source, chosen(job.roles.attacker, cfg)
            images, labels = source.images("test", index), source.labels("test")[index]
        else:
            source, index = others.source, others.index
            images, labels = fit_images(source.images("train", index), job.source.shape), source.labels("train")[index]
        known = labels if source.classes == job.source.classes else None
        stolen = copy.deepcopy(self._ready(network) if network is not None else self.network)
        seed = role_seed(cfg.attacker.seed, "attack")
        return Stolen(stolen, images, known, len(job.source.classes), seed, self.arithmetic)


def _device(job: Job) -> torch.device:
    """Where attacks compute: of several GPUs on the first that the user named."""
    devices = job.cfg.trainer.get("devices")
    named = OmegaConf.is_list(devices) and len(devices) > 0 and job.device == "cuda"
    return torch.device(job.device, int(devices[0])) if named else torch.device(job.device)


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
        settle(assault.folder, done=assault.finished() is not None)
        if not force and (card := assault.finished()) is not None:  # somebody else was faster
            return card, True
        with anew(assault.folder):
            card = _carried_out(assault, scene(), force)
            write_card(assault.folder, card)
    return card, False


def _carried_out(assault: Assault, here: Scene, force: bool) -> dict[str, Any]:
    before = digest(here.network)
    with _reproducible(role_seed(here.job.cfg.attacker.seed, "attack", 1), here.arithmetic.device):
        stolen = here.stolen(assault)
        n_images = len(stolen.images)
        if isinstance(assault.attack, RemovalAttack):
            found = _remove(assault, assault.attack, here, stolen)
        elif isinstance(assault.attack, ClaimAttack):
            found = hear_all(assault.attack, stolen, here.network)
        else:
            found = _detect(assault, assault.attack, here, stolen, force)
    if digest(here.network) != before:
        raise RuntimeError(f"attack {assault.name} changed its victim: it must work on copies")
    return {**_card(assault, here, n_images), **found}


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
        "metrics": _headline(rows, scene.victim_metrics, key_name(Fields(plain(scene.job.cfg.watermark)))),
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


def _headline(rows: list[dict[str, Any]], victim: dict[str, float], key: str) -> dict[str, float]:
    """The thief's best bargain: the fewest triggers that still work among surrogates that lose little clean accuracy.

    Counted are new ones, but of a ``key`` that is learned by heart those it was trained on.
    """
    clean = [row["metrics"]["attack/clean_acc"] for row in rows]
    left = [row["metrics"].get(judged_by(key), 0.0) for row in rows]
    best = rows[best_bargain(victim["attack/clean_acc"], clean, left)]
    return {**best["metrics"], "attack/strength": best["strength"], "attack/epochs": best["epochs"]}


def _detect(assault: Assault, attack: DetectionAttack, scene: Scene, stolen: Stolen, force: bool) -> dict[str, Any]:
    started = time.monotonic()
    recovered = attack.run(stolen)
    seconds = time.monotonic() - started
    unmarked, twin = scene.unmarked(), None
    if unmarked is not None:
        stolen = scene.stolen(assault, unmarked.network)
        twin = recover(attack, assault.identity["attack"], stolen, unmarked.folder, force)
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
        "data": {**job.source.identity(), "attacker": n_images, "judge": len(job.roles.judge), **_left_out(assault)},
        "seed": job.seed,
        "device": job.device,
        "threads": torch.get_num_threads(),
        "precision": job.precision,
        "group": cfg["auto"]["group"],
        "config": {**config, "attack": {assault.name: cfg["attack"][assault.name]}},
        "environment": environment(),
    }


def _left_out(assault: Assault) -> dict[str, int]:
    """How many images of other data the thief does without, since they are the owner's."""
    return {"shared": assault.others.shared} if assault.others is not None and assault.others.shared else {}


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """A network's state as safetensors wants it: on the processor, each tensor in one piece of its own."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in network.state_dict().items()}


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
