"""What asking costs: a part of ``make bench``.

*A local model*: a decoy-key test's images, asked through the suspect, the transcript and the test, against the bare
forward passes of the same batches. These run in a process of their own, as PyTorch comes, and a second time beside our
side with the setting that `verify.py` makes: freed memory is kept. Rounds take turns; medians are compared.

*A service*: one that takes 20 ms for each answer, asked one image in a request: one request at a time, eight, and eight
under a limit on requests a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request
from throughput import CASES, Elsewhere, RandomImages

from wmlightning.data.batches import ImageSet
from wmlightning.ownership.interview import Interview
from wmlightning.ownership.questions import DecoyKeys, Terms
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.http import Http
from wmlightning.ownership.suspects.json_api import JsonApi
from wmlightning.ownership.suspects.local import LocalSuspect
from wmlightning.process import keep_freed_memory

IMAGES = 5000
TERMS = Terms(0.002, queries=10, budget=IMAGES, sequential=False)
ANSWER_SECONDS, RATE, ASKED = 0.02, 40.0, 200


class Held(LocalSuspect):
    """A network in memory."""

    name, batch_size = "network", 500

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    @torch.inference_mode()
    def compute(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.network(images.to(memory_format=torch.channels_last).float().div_(255))
        return logits


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    keep_freed_memory()
    for name in CASES:
        _local(name, options.rounds)
    _service()


class Passes:
    """The baseline: labels of the images of a case, and nothing else."""

    def __init__(self, name: str) -> None:
        self.suspect, self.images = _held(name)

    def epoch(self) -> float:
        """Images a second."""
        started = time.perf_counter()
        for part in self.images.split(Held.batch_size):
            self.suspect.compute(part).argmax(1).tolist()
        return len(self.images) / (time.perf_counter() - started)


class Verification:
    """The same images through suspect, transcript and test."""

    def __init__(self, name: str) -> None:
        self.suspect, images = _held(name)
        self.shape = CASES[name].shape
        sets, labels = images.view(500, 10, *self.shape), torch.zeros(10, dtype=torch.int64)
        triggers = ImageSet(sets[0], labels, labels)
        self.question = DecoyKeys(triggers, labels - 1, TERMS, lambda d, n: sets[d + 1][:n], 10)

    def epoch(self) -> float:
        """Images a second."""
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            with Recorded(self.suspect, Path(folder) / "transcript.jsonl", IMAGES, self.shape, 10) as asked:
                self.question.put(Interview(asked))
            return IMAGES / (time.perf_counter() - started)


def _held(name: str) -> tuple[Held, torch.Tensor]:
    network = CASES[name].net().to(memory_format=torch.channels_last).eval()
    return Held(network), RandomImages(CASES[name].shape, IMAGES).read("train")[0]


def _local(name: str, rounds: int) -> None:
    sides = Elsewhere(partial(Passes, name)), Passes(name), Verification(name)
    turns = [[side.epoch() for side in sides] for _ in range(rounds + 1)][1:]  # the first round warms up
    sides[0].process.terminate()
    bare, kept = (statistics.median(turn[2] / turn[i] for turn in turns) for i in (0, 1))
    more = 1e6 * statistics.median(1 / turn[2] - 1 / turn[1] for turn in turns)
    speed = statistics.median(turn[2] for turn in turns)
    print(f"verifying a local {name}, {IMAGES} images: {speed:.0f} images/s")
    print(f"  ratio to bare forward passes {bare:.3f}, to the same with our setting {kept:.3f}")
    print(f"  {more:+.1f} microseconds an image: transcript, hashes, test")


def _service() -> None:
    images = torch.randint(0, 256, (ASKED, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    print(
        f"\n{ASKED} images, one in each request, to a service that takes {1000 * ANSWER_SECONDS:.0f} ms for an answer"
    )
    with _slow_service() as url:
        for told, http in (
            ("one request at a time", Http(concurrency=1)),
            ("eight at a time", Http(concurrency=8)),
            (f"eight at a time, at most {RATE:.0f} a second", Http(concurrency=8, rate=RATE)),
        ):
            suspect = JsonApi(url, {"path": "image", "kind": "png"}, {"path": "label", "kind": "label"}, http=http)
            started = time.perf_counter()
            with Recorded(suspect, None, ASKED, (1, 28, 28), 10) as asked:
                answers = asked.ask(images)
            seconds = time.perf_counter() - started
            assert all(answer.label == 3 for answer in answers)
            print(f"  {told:40s} {ASKED / seconds:6.1f} a second")


@contextmanager
def _slow_service() -> Iterator[str]:
    app = FastAPI()

    @app.post("/")
    async def answer(request: Request) -> dict[str, int]:
        json.loads(await request.body())
        await asyncio.sleep(ANSWER_SECONDS)
        return {"label": 3}

    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # else asyncio leaves Nagle's 40 ms on
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
