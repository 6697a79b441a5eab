"""Prediction of images in batches, with several requests in flight."""

__all__ = ["predict"]

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from anomalib_scrd.edge.engine import Engine, Request

Key = TypeVar("Key")
Prediction = dict[str, np.ndarray]


def predict(engine: Engine, images: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Prediction | Exception]]:
    """Predict images; further images are read while the model computes.

    Args:
        engine: The loaded model; several threads may use it at once.
        images: Pairs of key and image, (H, W) or (H, W, 3) float32 of the engine's size.

    Yields:
        Key and outputs without the batch axis, in the order of the images; or the model's error.
    """
    running: deque[tuple[Request, list[Key]]] = deque()
    filling: Request | None = None
    keys: list[Key] = []
    try:
        for key, image in images:
            if filling is None:
                filling = engine.request(wait=not running)
                while filling is None:
                    yield from _finish(*running.popleft())
                    filling = engine.request(wait=not running)
            keys.append(key)
            if not filling.put(image):
                filling.start()
                running.append((filling, keys))
                filling, keys = None, []
        if filling is not None:
            filling.start()
            running.append((filling, keys))
            filling = None
        while running:
            yield from _finish(*running.popleft())
    finally:
        if filling is not None:
            filling.cancel()
        for request, _ in running:
            request.result()


def _finish(request: Request, keys: list[Key]) -> Iterator[tuple[Key, Prediction | Exception]]:
    try:
        outputs = request.result()
    except Exception as error:  # noqa: BLE001 - errors of either engine
        yield from ((key, error) for key in keys)
        return
    for index, key in enumerate(keys):
        yield key, {name: values[index] for name, values in outputs.items()}
