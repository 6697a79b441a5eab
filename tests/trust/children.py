"""Children of a process that has imported everything: forked in milliseconds, killed, watched, counted.

The parent must have no threads but its own, so it computes nothing with torch or OpenVINO.
"""

__all__ = ["Row", "in_child", "one_thread"]

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def one_thread() -> None:
    """Keep this process, and the libraries that it will import, to one thread."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def in_child(work: Callable[[], Any], log: Path, kill_after: float | None = None, limit: float = 600) -> str:
    """Do some work in a forked child, which is killed at some moment.

    Args:
        work: The work.
        log: File that gets what the child prints, and its traceback.
        kill_after: Seconds until signal 9; None for none.
        limit: Seconds until the child is taken to hang, and killed.

    Returns:
        ``done``, ``failed`` (an exception), ``killed``, ``crashed`` (another signal) or ``hung``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = sys.stderr = os.fdopen(file, "a")  # pytest's own do not write there
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent is told by the status
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    start, hung = time.monotonic(), False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        passed = time.monotonic() - start
        hung = passed > limit
        if hung or (kill_after is not None and passed > kill_after):
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    if hung:
        return "hung"
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else "crashed"
    return "failed" if os.WEXITSTATUS(status) else "done"


@dataclass
class Row:
    """A row of the table: what was tried, what survived, what was lost and why.

    Args:
        name: The fault.
    """

    name: str
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, fault: str | None) -> None:
        """Count one try.

        Args:
            fault: What was lost; None if nothing.
        """
        if fault is None:
            self.survived += 1
        else:
            self.lost.append(fault)
            print(f"  lost: {fault}", flush=True)

    def __str__(self) -> str:
        """A line of a Markdown table."""
        tried = self.survived + len(self.lost)
        notes = f" {'; '.join(self.notes)} |" if self.notes else ""
        return f"| {self.name} | {tried} | {self.survived} | {len(self.lost)} |{notes}"
