"""One OpenVINO core per process, also for libraries that create their own."""

__all__ = ["one_core", "openvino_core"]

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the process, kept until it ends.

    Each further core sets another signal stack of the thread (OpenVINO 2026.4, CPU plugin) and restores the previous
    one when it is deleted. Cores that are deleted in the order of their creation leave a freed stack, and the next
    signal, for example of an ending child process, kills the process without a message.
    """
    import openvino

    return openvino.Core()


@contextmanager
def one_core() -> Iterator[None]:
    """Return :func:`openvino_core` to callers that create a core without a configuration.

    NNCF creates its own cores, some through ``openvino.compile_model``, and deletes them in any order.
    """
    import openvino
    from openvino import _ov_api

    core = openvino_core()
    modules: tuple[Any, Any] = (openvino, _ov_api)
    own = [module.Core for module in modules]

    def kept(*configuration: Any, **named: Any) -> Any:
        return own[0](*configuration, **named) if configuration or named else core

    try:
        for module in modules:
            module.Core = kept
        yield
    finally:
        for module, original in zip(modules, own, strict=True):
            module.Core = original
