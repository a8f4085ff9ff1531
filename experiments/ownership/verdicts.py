"""Verdicts of the ordinary kind for a study: what ``verify.py`` says of its models behind a service.

``python experiments/ownership/verdicts.py --runs DIR`` serves each watermarked model of a run store, and an unmarked
one of the same data, and verifies both by HTTP with the model's key, as an owner would. The verdicts lie below
``DIR/verdicts``, where ``make report`` finds them; ``--logger wandb`` puts them beside the trainings. What has its
verdict is not asked again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from concurrent.futures import as_completed
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import workers
from asking import marked_runs, service, twins_of
from hydra import compose, initialize_config_dir

from wmlightning import load_run
from wmlightning.config import CONF
from wmlightning.ownership.key import make_key, write_key
from wmlightning.ownership.verify import verify
from wmlightning.results.card import VERDICT


def main() -> None:
    """Asks, side by side, as many models as there are cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--group", default="verdicts", help="for the logger")
    parser.add_argument("--logger", default="none", help="of conf/logger")
    options = parser.parse_args()
    typed = [f"logger={options.logger}", f"group={options.group}", "tags=[asiaccs2018]"]
    with workers.pool() as pool:
        asked = []
        for owner in marked_runs(options.runs, options.seeds):
            innocents = twins_of(owner, options.runs)[:1]
            todo = {other: _place(options.runs, owner, other) for other in (owner, *innocents)}
            if waiting := {other: out for other, out in todo.items() if not (out / VERDICT).exists()}:
                asked.append(pool.submit(_verify, owner, waiting, typed))
        for one in as_completed(asked):
            one.result()


def _place(runs: Path, owner: Path, suspect: Path) -> Path:
    return runs.absolute() / "verdicts" / (owner.name if suspect == owner else f"{owner.name}-of-{suspect.name}")


def _verify(owner: Path, suspects: dict[Path, Path], typed: list[str]) -> None:
    key = make_key(load_run(owner).job)
    for suspect, out in suspects.items():
        if out.exists():  # begun at an address that is gone
            shutil.rmtree(out)
        # The key follows from the seed of the study: nothing is lost with its file. Each suspect is asked by an owner
        # who asked nobody before.
        with (
            tempfile.TemporaryDirectory() as folder,
            initialize_config_dir(str(CONF), version_base="1.3"),
            service(load_run(suspect), suspect.name) as url,
        ):
            write_key(key, Path(folder) / "study.key")
            asked = [f"key='{folder}/study.key'", "suspect=oip", f"suspect.url={url}", f"suspect.model={suspect.name}"]
            (verdict,) = verify(compose("verify", [*typed, *asked, f"out='{out}'"]))
        print(f"{out.name}: {verdict.decision} after {verdict.queries} queries", flush=True)


if __name__ == "__main__":
    main()
