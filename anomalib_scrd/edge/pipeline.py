"""Concurrent processing of many files, with results in their order."""

__all__ = ["grouped", "in_order"]

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def grouped(items: Iterable[Item | None], size: int) -> Iterator[tuple[Item, ...] | None]:
    """Form groups of items.

    Args:
        items: Items; None means that none is available at the moment.
        size: Number of items per group.

    Yields:
        Groups, which may be smaller at the end and before a None, and every None.
    """
    group: list[Item] = []
    for item in items:
        if item is not None:
            group.append(item)
        if group and (item is None or len(group) == size):
            yield tuple(group)
            group = []
        if item is None:
            yield None
    if group:
        yield tuple(group)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item | None], threads: int, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Call a function for items in threads; results come in the order of the items.

    Args:
        function: Function that is called in the threads.
        items: Items; None means that none is available at the moment: all pending results are then yielded.
        threads: Number of threads.
        ahead: Largest number of items in progress.

    Yields:
        Item and result.

    Raises:
        Exception: Errors of the function, instead of its result, after the pending items are finished.
    """
    begun: deque[tuple[Item, Future[Result]]] = deque()

    def first() -> tuple[Item, Result]:
        item, future = begun.popleft()
        return item, future.result()

    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        try:
            for item in items:
                if item is not None:
                    begun.append((item, pool.submit(function, item)))
                while begun and (item is None or len(begun) >= ahead or begun[0][1].done()):
                    yield first()
            while begun:
                yield first()
        finally:
            for _, future in begun:
                future.cancel()
