"""Verdicts of the ordinary kind for a study: what ``verify.py`` says of its models behind a service.

``python experiments/ownership/verdicts.py --runs DIR`` serves each watermarked model of a run store, and an unmarked
one of the same data, and verifies both by HTTP with the model's key, as an owner would. The verdicts lie below
``DIR/verdicts``, where ``make report`` finds them; ``--logger wandb`` puts them beside the trainings. What has its
verdict is not asked again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from asking import marked_runs, service, twins_of
from hydra import compose, initialize_config_dir

from wmlightning import load_run
from wmlightning.config import CONF
from wmlightning.ownership.key import make_key, write_key
from wmlightning.ownership.verify import verify
from wmlightning.results.card import VERDICT
from wmlightning.store import Run


def main() -> None:
    """Asks, a model after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--group", default="verdicts", help="for the logger")
    parser.add_argument("--logger", default="none", help="of conf/logger")
    options = parser.parse_args()
    typed = [f"logger={options.logger}", f"group={options.group}", "tags=[asiaccs2018]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for owner in marked_runs(options.runs, options.seeds):
            innocents = twins_of(owner, options.runs)[:1]
            todo = {other: _place(options.runs, owner, other) for other in (owner, *innocents)}
            if waiting := {other: out for other, out in todo.items() if not (out / VERDICT).exists()}:
                _verify(load_run(owner), waiting, typed)


def _place(runs: Path, owner: Path, suspect: Path) -> Path:
    return runs.absolute() / "verdicts" / (owner.name if suspect == owner else f"{owner.name}-of-{suspect.name}")


def _verify(owner: Run, suspects: dict[Path, Path], typed: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the key follows from the study's seed: nothing is lost with it
        key = Path(folder) / "study.key"
        write_key(make_key(owner.job), key)
        for suspect, out in suspects.items():
            if out.exists():  # begun at an address that is gone
                shutil.rmtree(out)
            with service(load_run(suspect), suspect.name) as url:
                asked = [f"key='{key}'", "suspect=oip", f"suspect.url={url}", f"suspect.model={suspect.name}"]
                (verdict,) = verify(compose("verify", [*typed, *asked, f"out='{out}'"]))
            print(f"{out.name}: {verdict.decision} after {verdict.queries} queries", flush=True)


if __name__ == "__main__":
    main()
