"""Suppresses warnings and log lines of pydicom: they quote values of headers, which may identify a patient."""

__all__ = ["silent"]

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_WARNINGS = ("ignore", None, Warning, re.compile(r"pydicom\."), 0)
_thread = threading.local()


class _Silence(logging.Filter):
    """Drops log lines of threads that are reading a file."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is logged."""
        del record
        return not getattr(_thread, "reading", False)


_SILENCE = _Silence()


@contextmanager
def silent() -> Iterator[None]:
    """Silence pydicom in this thread.

    Python's warning filters apply to the process, not to a thread: pydicom's warnings are ignored in all threads.
    """
    logging.getLogger("pydicom").addFilter(_SILENCE)
    if _WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"pydicom\.")
    _thread.reading = True
    try:
        yield
    finally:
        _thread.reading = False
