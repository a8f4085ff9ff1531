"""Reads back what W&B wrote to disk for an upload later: one record after the other, as its own sender does."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _HEAD = 32768, struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Logged:
    """A W&B run as its server would show it.

    Attributes:
        name: shown for it.
        history: rows in the order of logging.
        steps: metric or pattern, to the metric that it is drawn over.
        files: folder of what is uploaded beside it.
        content: the file as it is.
    """

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    sweep: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    files: Path = Path()
    content: bytes = b""

    def table(self, name: str) -> dict[str, Any]:
        """Columns and data of a logged table."""
        return json.loads((self.files / self.summary[name]["path"]).read_text())  # type: ignore[no-any-return]

    def uploaded(self) -> bytes:
        """Everything that would leave this machine, in one piece."""
        parts = [path.read_bytes() for path in sorted(self.files.rglob("*")) if path.is_file()]
        return b"\n".join([self.content, *parts])


def runs_below(folder: Path) -> list[Logged]:
    """All runs that were logged offline below a folder."""
    return [_read(path) for path in sorted(folder.rglob("wandb/offline-run-*/run-*.wandb"))]


def _read(path: Path) -> Logged:
    content = path.read_bytes()
    found = Logged(files=path.parent / "files", content=content)
    steps: dict[int, str] = {}
    for data in _records(content):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.id, found.name, found.group = run.run_id, run.display_name, run.run_group
            found.job_type = run.job_type
            found.tags, found.sweep = list(run.tags), run.sweep_id
            _update(found.config, run.config.update)
        elif kind == "config":
            _update(found.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            found.history.append(row)
            found.summary.update(row)
        elif kind == "summary":
            _update(found.summary, record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            found.steps[name] = record.metric.step_metric or steps.get(record.metric.step_metric_index, "")
    return found


def _update(mapping: dict[str, Any], items: Any) -> None:
    for item in items:
        path = list(item.nested_key) or [item.key]
        place = mapping
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = json.loads(item.value_json)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of the log: pieces that never cross the end of a block."""
    assert content[:4] == b":W&B"
    at, whole = 7, b""
    while at < len(content):
        if _BLOCK - at % _BLOCK < _HEAD.size:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = _HEAD.unpack_from(content, at)
        piece = content[at + _HEAD.size : at + _HEAD.size + length]
        at += _HEAD.size + length
        whole = piece if kind in (_FULL, _FIRST) else whole + piece
        if kind in (_FULL, _LAST):
            yield whole
