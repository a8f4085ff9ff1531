"""What SIGTERM does to a command: by itself, it ends a process without a word."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_raises(error: BaseException) -> Iterator[None]:
    """Has SIGTERM raise an exception within the block, unless somebody answers it already, or does so for a while.

    Args:
        error: what is raised.
    """

    def end(number: int, frame: object) -> None:
        del number, frame
        if signal.getsignal(signal.SIGTERM) is end:  # Lightning's handler calls the one before it
            raise error

    ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
