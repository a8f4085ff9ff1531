"""All of ``make bench``: runs the measurements one after the other and keeps what they print in ``results.txt``.

Arguments go to ``throughput.py``. The file is written when all is done; then the README shows it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import front
import pages
import torch

from wmlightning.files import write_bytes
from wmlightning.results.card import environment

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.txt"
PARTS = ("throughput.py", "attacks.py", "verification.py", "foreign.py")


def main() -> None:
    """Measures, writes, shows."""
    typed = f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else ""
    record = pages.measured()
    commit = (record["commit"] or "not recorded").partition("-")
    head = f"make bench{typed}, {record['date']}, commit {commit[0][:7]}{commit[1]}{commit[2]}"
    told = environment()
    processor = f"{told['cpu'] or 'processor not known'} ({torch.backends.cpu.get_cpu_capability()})"
    machine = f"{record['platform']}, {processor}, {record['cores']} cores, torch {told['versions']['torch']}"
    parts = [f"{head}\n{machine}"]
    for name in PARTS:
        parts.append(_printed([str(HERE / name), *(sys.argv[1:] if name == PARTS[0] else [])]))
    write_bytes(RESULTS, ("\n\n".join(parts) + "\n").encode())
    pages.include(pages.FRONT, "bench", front.front()["bench"])


def _printed(command: list[str]) -> str:
    """What a script prints, which goes to the screen as well."""
    lines = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with exit code {process.returncode}")
    return "".join(lines).strip()


if __name__ == "__main__":
    main()
