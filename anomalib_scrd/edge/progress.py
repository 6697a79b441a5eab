"""Progress of a run: one line that is overwritten on a terminal, a line every 10 seconds elsewhere."""

__all__ = ["Progress"]

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Counts pictures and reports progress on the standard error stream.

    Args:
        count: Counts all files, in a separate thread; None without an end, as for a watched folder.
        quiet: Whether only failures are reported.
        stream: Output; None for the standard error stream.
    """

    def __init__(self, count: Callable[[], int] | None, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._terminal = self._stream.isatty()
        self._every = 0.2 if self._terminal else 10.0
        self._start = self._written = time.monotonic()
        self._width = 0
        self.files = self.scored = self.skipped = self.bad = 0
        self._total: int | None = None
        if count is not None and not quiet:
            threading.Thread(target=self._count, args=(count,), daemon=True).start()

    def _count(self, count: Callable[[], int]) -> None:
        self._total = count()

    def step(self, *, scored: int = 0, skipped: int = 0, bad: int = 0) -> None:
        """Count a file.

        Args:
            scored: Pictures of it that were scored.
            skipped: 1 if it already had results.
            bad: 1 if it could not be read.
        """
        self.files += 1
        self.scored += scored
        self.skipped += skipped
        self.bad += bad
        now = time.monotonic()
        if not self._quiet and now - self._written >= self._every:
            self._written = now
            self._print(self.line(now))

    def line(self, now: float | None = None) -> str:
        """The counts, the rate and, if the total is known, the remaining time."""
        passed = (time.monotonic() if now is None else now) - self._start
        rate = self.scored / passed if passed > 0 else 0.0
        total = "" if self._total is None else f" of {self._total}"
        parts = [f"{self.files}{total} files", f"{self.scored} pictures scored, {rate:.0f}/s"]
        if self.skipped:
            parts.append(f"{self.skipped} done before")
        if self.bad:
            parts.append(f"{self.bad} unreadable")
        if self._total is not None and self.files > self.skipped:
            left = max(0, self._total - self.files) * passed / (self.files - self.skipped)
            parts.append(f"{left:.0f} s left")
        return ", ".join(parts)

    def failure(self, name: str, reason: str) -> None:
        """Report that a file could not be read.

        Args:
            name: Its name in the results.
            reason: The reason.
        """
        self._clear()
        print(f"left out: {name}: {reason}", file=self._stream, flush=True)

    def close(self) -> None:
        """Report the final counts."""
        if not self._quiet:
            self._clear()
            self._total = None
            print(self.line(), file=self._stream, flush=True)

    def _print(self, text: str) -> None:
        if self._terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
            self._stream.flush()
        else:
            print(text, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._terminal and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
