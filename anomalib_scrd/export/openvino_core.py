"""One core of OpenVINO for a process, also for libraries that make their own."""

__all__ = ["one_core", "openvino_core"]

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the whole process, which stays until it ends.

    Each further core would give the thread another signal stack (OpenVINO 2026.4, CPU plugin) and restore the previous
    one at its end. Cores that end in the order in which they were created leave a freed stack behind, and the next
    signal, for example of a child process that ends, kills the process without a message.
    """
    import openvino

    return openvino.Core()


@contextmanager
def one_core() -> Iterator[None]:
    """Return :func:`openvino_core` to callers that create a core without a configuration.

    NNCF makes cores of its own, some through ``openvino.compile_model``, and drops them in any order.
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
