"""Stopping on a signal: after the first one pending work is finished, a second one stops at once."""

__all__ = ["Stop"]

import signal
import threading
from types import FrameType


class Stop:
    """Receives SIGINT and SIGTERM inside a ``with`` block.

    Attributes:
        signal: The received signal, None if none was.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._event = threading.Event()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":  # noqa: PYI034 - typing has no Self in Python 3.10
        """Receive signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the earlier handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal gave

    def __bool__(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def wait(self, seconds: float) -> bool:
        """Wait until a signal comes, or the time is over.

        Args:
            seconds: Longest time.

        Returns:
            Whether a signal came.
        """
        return self._event.wait(seconds)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        self._event.set()
