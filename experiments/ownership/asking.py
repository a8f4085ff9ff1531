"""What both studies of this folder share: keys of stored runs, suspects in memory, and the questions put to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wmlightning.data.batches import ImageSet
from wmlightning.ownership.choice import choose, triggers_of
from wmlightning.ownership.interview import Interview
from wmlightning.ownership.key import Key, make_key
from wmlightning.ownership.questions import Question, Terms
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.statistics.result import TestResult
from wmlightning.ownership.suspects.base import Suspect
from wmlightning.ownership.suspects.local import LocalSuspect
from wmlightning.ownership.suspects.network import arithmetic_of
from wmlightning.results.card import read_card
from wmlightning.secret import Secret
from wmlightning.store import Run
from wmlightning.watermarks.base import MarkingWatermark
from wmlightning.watermarks.triggers import TriggerMaker


class Held(LocalSuspect):
    """A network in memory.

    Args:
        run: whose arithmetic is used.
        network: float images in [0, 1] to logits.
    """

    batch_size = 500

    def __init__(self, run: Run, network: nn.Module) -> None:
        self.name = run.folder.name
        self._arithmetic = arithmetic_of(run, "cpu", "device")
        self._network = network.eval()

    @torch.inference_mode()
    def compute(self, images: Tensor) -> Tensor:
        """Logits."""
        with self._arithmetic.scope():
            logits: Tensor = self._network(self._arithmetic.floats(images))
        return logits


class Claim:
    """An owner's key, and the questions that it allows.

    Args:
        run: finished, with a watermark.
    """

    def __init__(self, run: Run) -> None:
        maker = run.job.maker
        assert maker is not None, "a run with a watermark"
        self.maker: TriggerMaker = maker
        self.key: Key = make_key(run.job)
        self.triggers, self.true = triggers_of(self.key, maker, "new")

    def question(self, terms: Terms, turn: int) -> Question:
        """What is asked at the ``turn``-th time: other triggers, or in another order, and other decoys."""
        return chosen(self.maker, self.triggers, self.true, terms, turn)

    def strangers(self, terms: Terms, turn: int) -> Question:
        """The same by a stranger who claims the model, with marks and labels of another secret.

        Of a single mark the stranger is given the owner's label: an accuser who has the model finds it by trying.
        """
        stranger, scheme = Secret.from_seed(1_000_000 + turn), self.maker.scheme
        shown = self.maker.disguised(stranger, self.key.new, torch.arange(len(self.key.new)))
        marking = isinstance(self.maker.watermark, MarkingWatermark)
        true = self.maker.truth("new") if marking else torch.full_like(shown.labels, -1)
        labels, k, draw = shown.labels, len(self.maker.source.classes), stranger.stream("a stranger's labels")
        if scheme.label == "random":
            drawn = torch.from_numpy(draw.integers(len(labels), k - marking))
            labels = (true + 1 + drawn) % k if marking else drawn
        elif scheme.n_marks > 1:
            pool = torch.tensor(self.maker.labels.pool)
            labels = pool[torch.from_numpy(draw.integers(scheme.n_marks, len(pool)))][shown.groups]
        triggers = ImageSet(shown.images, labels, shown.groups)
        return chosen(self.maker, triggers, true, terms, turn)


def chosen(maker: TriggerMaker, triggers: ImageSet, true: Tensor, terms: Terms, turn: int) -> Question:
    """What ``verify.py`` would ask if all triggers are unspent, and its own secret is that of this turn."""
    return choose(maker, triggers, true, torch.arange(len(triggers)), terms, Secret.from_seed(2_000_000 + turn))


def triggers_asked(maker: TriggerMaker) -> tuple[ImageSet, Tensor]:
    """Triggers of a key that no model was trained with, and their images' true classes."""
    made = maker.make()
    name: Literal["trained", "new"] = "trained" if maker.scheme.label == "random" else "new"
    triggers = made.trained if name == "trained" else made.new
    marking = isinstance(maker.watermark, MarkingWatermark)
    return triggers, maker.truth(name) if marking else torch.full_like(triggers.labels, -1)


def put(question: Question, suspect: Suspect, maker: TriggerMaker) -> tuple[TestResult, int]:
    """Puts a question to a suspect that was not asked before: what came out, and the images that were sent."""
    source = maker.source
    with Recorded(suspect, None, question.terms.budget, source.shape, len(source.classes)) as asked:
        return question.put(Interview(asked)), asked.queries


def marked_runs(folder: Path, seeds: list[int] | None = None) -> list[Path]:
    """Finished trainings of a run store with a watermark, of some seeds or all."""
    found = _trained(folder)
    return [path for path, card in found if _marked(card) and (seeds is None or card["seed"] in seeds)]


def twins_of(one: Path, folder: Path) -> list[Path]:
    """Finished trainings of a run store without a watermark, that differ from a training in nothing else."""
    card = read_card(one)
    return [path for path, other in _trained(folder) if card and not _marked(other) and _task(other) == _task(card)]


def _trained(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.iterdir()):
        card = read_card(path)
        if card is not None and card.get("kind") == "train":
            yield path, card


def _marked(card: dict[str, Any]) -> bool:
    return bool(card["config"]["watermark"].get("_target_"))


def _task(card: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(card["config"].get(name) for name in ("dataset", "model", "recipe", "trainer", "precision", "seed"))


def key_name(config: dict[str, Any]) -> str:
    """How the tables call a key."""
    watermark = config["watermark"]
    if watermark["label"] == "random":
        return "random labels"
    if watermark["n_marks"] > 1:
        return f"{watermark['n_marks']} marks" + (", negatives" if watermark["negatives"] else "")
    return "one mark, negatives" if watermark["negatives"] else "one mark, as in the paper"


@contextmanager
def service(run: Run, name: str = "classifier") -> Iterator[str]:
    """Serves a run on a socket of this machine under a name: its address."""
    import threading
    import time

    import uvicorn

    from wmlightning.ownership.server import ServedModel, create_app

    config = uvicorn.Config(create_app(ServedModel(run, name, "cpu")), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    _wait(lambda: server.started, time.monotonic() + 30)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _wait(until: Callable[[], bool], deadline: float) -> None:
    import time

    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError("the service does not start")
        time.sleep(0.01)
