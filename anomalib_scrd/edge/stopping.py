"""Stopping on a signal: the first one lets pending work finish, the second one stops at once."""

__all__ = ["Stop"]

import signal
import threading
from types import FrameType


class Stop:
    """Handles SIGINT and SIGTERM in a ``with`` block.

    Attributes:
        signal: The received signal, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._event = threading.Event()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":  # noqa: PYI034 - typing has no Self in Python 3.10
        """Install the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the earlier handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # the earlier handler

    def __bool__(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    def wait(self, seconds: float) -> bool:
        """Wait for a signal, at most for the given time.

        Args:
            seconds: Longest time to wait.

        Returns:
            Whether a signal was received.
        """
        return self._event.wait(seconds)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        self._event.set()
