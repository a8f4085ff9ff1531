"""What of a card may stand on a page that others read: neither secrets nor where things lie on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wmlightning.results.fields import cleaned

#: Stands where something was left out.
WITHHELD = "(withheld)"

#: Options of a watermark that tell nothing of its marks. A new watermark's own options are withheld until named here.
OPEN_OPTIONS = frozenset(
    (
        *("_target_", "n_triggers", "n_new", "n_marks", "source_class", "target_class", "label", "negatives"),
        *("mix", "per_batch", "augment", "n_decoys", "n_letters", "strength", "fresh"),
    )
)
#: Say which images are marked and what they are called, wherever they stand; a data set's are defaults for its marks.
_TELLING = ("source_class", "target_class", "unrelated")
_NOT_TELLING = ("auto", "secret", "any")  # they say only how a class is chosen
_SECRETS = re.compile(r"(^|_)(key|keys|secret|secrets|passphrase|password|token|headers|authorization)$", re.IGNORECASE)

_PATH = r"(?:[A-Za-z]:[\\/]|\\\\|~[\w.-]*/|/)"
_WHOLE_PATH = re.compile(rf"(?:file:)?{_PATH}(?P<rest>.*)", re.DOTALL)
_INNER_PATH = re.compile(rf"(?:file:/*|(?<![\w.:/\\~<])){_PATH}(?P<rest>[^\s'\"<>|;,()\[\]{{}}]+)")
_RUN = re.compile(r"[\w.-]+-(?:s\d+|file)-[0-9a-f]{12}")  # as runs are called: seed and fingerprint at the end
_LOGIN = re.compile(r"(://)[^/\s@]*@")
_QUERY = re.compile(r"(://[^\s?#]*)[?#]\S*")

_LONGEST, _DEEPEST, _MOST = 400, 12, 40


def public(text: str, longest: int = _LONGEST) -> str:
    """One printable line without what tells of this machine: of addresses no login, of paths the last part remains.

    Of paths into the folder of a run, what comes from there on remains: else all surrogates would have one name.
    """
    text = text[: 4 * longest]  # whatever is searched for ends there: nobody waits for the rest of a huge text
    text = _QUERY.sub(r"\1", _LOGIN.sub(r"\1", text))
    if whole := _WHOLE_PATH.fullmatch(text.strip()):
        return cleaned(_last(whole), longest)
    return cleaned(_INNER_PATH.sub(_last, text), longest)


def _last(path: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[\\/]", path["rest"]) if part]
    runs = [i for i, part in enumerate(parts) if _RUN.fullmatch(part)]
    kept = parts[runs[-1] :] if runs else parts[-1:]
    return "\N{HORIZONTAL ELLIPSIS}/" + "/".join(kept)


def public_config(config: Any, with_secrets: bool) -> Any:
    """A config without what would give a secret away; with secrets, as it is.

    Args:
        config: of a card.
        with_secrets: keep what tells of marks and labels.

    Returns:
        A copy. Class names chosen for the watermark are withheld too: they are half of what only the owner knows.
    """
    if with_secrets or not isinstance(config, dict):
        return config
    kept = {name: _without_secrets(name, value) for name, value in config.items()}
    if isinstance(marks := kept.get("watermark"), dict):
        kept["watermark"] = {
            name: value if name in OPEN_OPTIONS or value is None else WITHHELD for name, value in marks.items()
        }
    elif marks is not None:
        kept["watermark"] = WITHHELD
    return kept


def _without_secrets(name: Any, value: Any) -> Any:
    if value is not None and (
        _SECRETS.search(str(name)) or (name in _TELLING and str(value).lower() not in _NOT_TELLING)
    ):
        return WITHHELD
    if isinstance(value, dict):
        return {inner: _without_secrets(inner, deeper) for inner, deeper in value.items()}
    if isinstance(value, list):
        return [_without_secrets("", deeper) for deeper in value]
    return value


def outline(content: Any, indent: int = 0) -> Iterator[str]:
    """Plain content as indented lines, ``name: value``; long lists and deep places are cut."""
    if not isinstance(content, dict):
        yield "  " * indent + _spelled(content, indent)
        return
    for name, value in content.items():
        head = "  " * indent + public(str(name), 80)
        if isinstance(value, dict) and value:
            yield f"{head}:"
            yield from outline(value, indent + 1) if indent < _DEEPEST else ["  " * (indent + 1) + "..."]
        else:
            yield f"{head}: {_spelled(value, indent)}"


def _spelled(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return public(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, list):
        if depth >= _DEEPEST:
            return "[...]"
        items = [_spelled(item, depth + 1) for item in value[:_MOST]]
        return cleaned("[" + ", ".join([*items, "..."][: len(value[: _MOST + 1])]) + "]", 4 * _LONGEST)
    if isinstance(value, dict):
        if depth >= _DEEPEST:
            return "{...}"
        items = [
            f"{public(str(name), 80)}: {_spelled(inner, depth + 1)}" for name, inner in list(value.items())[:_MOST]
        ]
        return cleaned("{" + ", ".join(items) + "}", 4 * _LONGEST)
    return cleaned(str(value))
