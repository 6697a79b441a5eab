"""Children of a process that has imported everything: forked in milliseconds, killed, watched, counted.

The parent must not have further threads, so it computes nothing with torch or OpenVINO. Moments are in seconds of the
child's processor time, so that they are within its work on a busy machine too.
"""

__all__ = ["Journal", "Row", "die_after", "in_child", "last_line", "one_thread", "per_kind", "processor_time"]

import ctypes
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PROCESS_TIME = 2  # CLOCK_PROCESS_CPUTIME_ID of Linux


def one_thread() -> None:
    """Limit this process, and the libraries that it will import, to one thread."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def die_after(seconds: float) -> None:
    """Make the kernel kill this process, by signal 9, after further processor time (accurate to about 10 ms).

    It needs no Python thread, so it also works within a long call of C++.
    """

    class Event(ctypes.Structure):
        _fields_ = (("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int))

    class Times(ctypes.Structure):
        _fields_ = (("every", ctypes.c_long * 2), ("first", ctypes.c_long * 2))

    libc = ctypes.CDLL(None, use_errno=True)
    memory = (ctypes.c_char * 64)()  # the size of a sigevent
    event = Event.from_buffer(memory)
    event.signal, event.notify = signal.SIGKILL, 0
    timer = ctypes.c_void_p()
    nanoseconds = max(int(seconds * 1e9), 1)
    times = Times((0, 0), divmod(nanoseconds, 10**9))
    if libc.timer_create(_PROCESS_TIME, ctypes.byref(memory), ctypes.byref(timer)) or libc.timer_settime(
        timer, 0, ctypes.byref(times), None
    ):
        raise OSError(ctypes.get_errno(), "no timer")


def processor_time(work: Callable[[], Any], log: Path) -> float | None:
    """Seconds of processor time of some work in a child; None if it failed."""
    before = os.times()
    ended = in_child(work, log)
    after = os.times()
    taken = after.children_user + after.children_system - before.children_user - before.children_system
    return taken if ended == "done" else None


def in_child(work: Callable[[], Any], log: Path, kill_after: float | None = None, limit: float | None = None) -> str:
    """Do some work in a forked child, which is killed at some moment.

    Args:
        work: The work.
        log: File that gets what the child prints, and its traceback.
        kill_after: Seconds of the child's processor time until signal 9; None for none.
        limit: Seconds until the child is taken to hang, and killed; None for none.

    Returns:
        ``done``, ``failed`` (an exception), ``killed``, ``crashed`` (another signal) or ``hung``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)  # so that nothing that it starts outlives a hang
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = sys.stderr = os.fdopen(file, "a")  # pytest's own do not write there
            if torch := sys.modules.get("torch"):
                # A fork leaves torch to make a new thread pool at its next use; two threads at once would find none.
                torch.set_num_threads(torch.get_num_threads())
            if kill_after is not None:
                die_after(kill_after)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent is told by the status
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    handle = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([handle], [], [], limit)
    finally:
        os.close(handle)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ended:
        return "hung"
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else "crashed"
    return "failed" if os.WEXITSTATUS(status) else "done"


def last_line(log: Path) -> str:
    """The last line of a log; of a C++ error the two lines before its stack."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    stack = bool(lines) and lines[-1].lstrip().startswith("frame #")
    lines = [line for line in lines if not line.lstrip().startswith("frame #")]
    return " ".join(lines[-2 if stack else -1 :]) or "no output"


def per_kind(numbers: list[int], kinds: list[str]) -> list[int]:
    """A number for each kind: one that is given alone is that of all."""
    return numbers * len(kinds) if len(numbers) == 1 else numbers


class Journal:
    """Results of numbered tries, a line of JSON each, so that a stopped command can resume.

    Args:
        path: The file; None for none, and nothing is kept.
        settings: Settings of the tries, except for their number. A file with other settings is refused.

    Raises:
        ValueError: If the file is that of other settings.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.tries: dict[int, dict[str, Any]] = {}
        settings = json.loads(json.dumps(settings))
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path is not None and path.exists() else []
        if lines and json.loads(lines[0]) != settings:
            msg = f"journal {str(path)!r} is one of {lines[0]}, expected {json.dumps(settings)}"
            raise ValueError(msg)
        for line in lines[1:]:
            self._take(line)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # a truncated line is written again
            path.write_text("".join(line + "\n" for line in lines or [json.dumps(settings)]), encoding="utf-8")

    def _take(self, line: str) -> None:
        facts = json.loads(line)
        self.tries[facts.pop("number")] = facts

    def add(self, number: int, **facts: Any) -> None:
        """Note a try."""
        line = json.dumps({"number": number, **facts})
        self._take(line)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


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
