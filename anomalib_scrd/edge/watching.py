"""A watched folder: files as they come, each once, none that is still being written."""

__all__ = ["watch"]

import time
from collections.abc import Iterator
from pathlib import Path

from anomalib_scrd.edge.records import Signature
from anomalib_scrd.edge.sources import SourceFile, walk
from anomalib_scrd.edge.stopping import Stop

SETTLE = 1.0
"""Seconds for which size and time of a file must have stayed as they are before it is read."""

_INTERVAL = 0.25
_REST = 4.0  # a large folder may not keep a core busy with looking


def watch(
    root: Path, exclude: Path | None, stop: Stop, settle: float = SETTLE, interval: float = _INTERVAL
) -> Iterator[SourceFile | None]:
    """Look at a folder again and again until a signal comes.

    Whoever writes a file under a name that is not looked at (hidden, or with another suffix) and renames it when it is
    whole can do so at any speed; a file that is written in place must not pause for longer than ``settle``.

    Args:
        root: The folder.
        exclude: A folder that is left out.
        stop: Ends the watch.
        settle: See ``SETTLE``.
        interval: Seconds between two looks.

    Yields:
        Files, each once as long as it is not changed; None after each look.
    """
    given: dict[Path, Signature] = {}
    waiting: dict[Path, tuple[Signature, float]] = {}
    while not stop:
        present: dict[Path, Signature] = {}
        began = time.monotonic()
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
        except OSError:  # the folder is away for the moment, such as a share of the network
            pass
        # What is gone is forgotten: these grow with the folder, not with time.
        given = {path: kept for path, kept in given.items() if path in present}
        waiting = {path: kept for path, kept in waiting.items() if path in present}
        yield None
        stop.wait(max(interval, _REST * (time.monotonic() - began)))
