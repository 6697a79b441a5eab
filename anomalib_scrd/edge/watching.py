"""A watched folder: yields each new file once, when it is complete."""

__all__ = ["watch"]

import time
from collections.abc import Iterator
from pathlib import Path

from anomalib_scrd.edge.records import Signature
from anomalib_scrd.edge.sources import SourceFile, walk
from anomalib_scrd.edge.stopping import Stop

SETTLE = 1.0
"""Seconds for which size and time of a file must be unchanged before it is read."""

_INTERVAL = 0.25
_REST = 4.0  # wait at least this multiple of the time of a listing, without that for scoring its files


def watch(
    root: Path, exclude: Path | None, stop: Stop, settle: float = SETTLE, interval: float = _INTERVAL
) -> Iterator[SourceFile | None]:
    """List a folder repeatedly until a signal comes.

    A file that is written under an ignored name (hidden, or of an unfinished file, such as ``a.dcm.part``) and renamed
    when it is complete can be written at any speed; writing a file in place must not pause for longer than ``settle``.

    Args:
        root: The folder.
        exclude: A folder that is left out.
        stop: Ends the watch.
        settle: See ``SETTLE``.
        interval: Seconds between two listings.

    Yields:
        Files, each once unless it changes; None after each listing.
    """
    given: dict[Path, Signature] = {}
    waiting: dict[Path, tuple[Signature, float]] = {}
    while not stop:
        present: dict[Path, Signature] = {}
        began, used_elsewhere = time.monotonic(), 0.0
        try:
            for file in walk(root, exclude):
                if stop:
                    return
                present[file.path] = file.signature
                if given.get(file.path) == file.signature:
                    continue
                now = time.monotonic()
                known, since = waiting.get(file.path, (None, now))
                if known != file.signature:
                    since = now
                    waiting[file.path] = file.signature, since
                if now - since >= settle:
                    del waiting[file.path]
                    given[file.path] = file.signature
                    yield file
                    used_elsewhere += time.monotonic() - now
        except OSError:  # the folder is temporarily unavailable, for example a network share
            pass
        # Drop removed files, so that the dictionaries do not grow with time.
        given = {path: kept for path, kept in given.items() if path in present}
        waiting = {path: kept for path, kept in waiting.items() if path in present}
        listing = time.monotonic() - began - used_elsewhere
        yield None
        stop.wait(max(interval, _REST * listing))
