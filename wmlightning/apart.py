"""One piece of work in a process of its own, so that what kills it kills nothing else."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent ends


class Died(Exception):
    """The process ended without an answer: killed, out of memory, or crashed in native code."""


def possible() -> bool:
    """Whether this system can do it. Elsewhere forking a process that has loaded torch is not safe."""
    return sys.platform == "linux"


def run_apart(work: Callable[[], Any]) -> Any:
    """Runs ``work`` in a forked child: what has been imported here need not be imported again.

    The caller must not have computed anything with torch, whose threads do not survive a fork.

    Args:
        work: returns something that can be pickled, and handles its own exceptions.

    Raises:
        Died: if the child ended without returning.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, sender, os.getpid()))
    child.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        child.join()
        raise Died(_why(child.exitcode or 0)) from None
    except BaseException:  # this process is told to end, perhaps within milliseconds
        child.kill()
        raise
    child.join()
    return answer


def end_with_parent(parent: int) -> None:
    """Ends this process soon after the one that started it. For workers: theirs may be killed without telling them.

    Args:
        parent: number of that process, which may have ended already.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _child(work: Callable[[], Any], sender: Connection, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    # The parent answers these for both: submitit queues a job anew when the first of them comes.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        sender.send(work())
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)


def _why(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"its process was killed by {signal.Signals(-code).name}{hint}"
