"""Cache of recently used arrays, limited by a number of bytes."""

__all__ = ["RecentArrays"]

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import numpy as np


class RecentArrays:
    """Keeps the most recently used arrays; thread-safe.

    Args:
        capacity: Capacity in bytes. A larger array is returned without being kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Get an array.

        Args:
            key: Key of the array.
            make: Computes an array that is not kept; two threads may compute the same one at once.

        Returns:
            The array, which must not be written to.
        """
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = make()
        if array.nbytes > self._capacity:
            return array
        with self._lock:
            self._arrays[key] = array
            self._arrays.move_to_end(key)
            while sum(kept.nbytes for kept in self._arrays.values()) > self._capacity:
                self._arrays.popitem(last=False)
        return array
