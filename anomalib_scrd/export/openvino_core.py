"""One core of OpenVINO for a process, also for libraries that make their own."""

__all__ = ["one_core", "openvino_core"]

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the whole process, which stays until it ends.

    Each core of its own would give the thread another signal stack (OpenVINO 2026.4, CPU plugin), and put the one that
    it found back at its end. Cores that end in the order in which they began leave a stack that is gone, and the next
    signal, of a child process that ends for instance, kills the process without a word.
    """
    import openvino

    return openvino.Core()


@contextmanager
def one_core() -> Iterator[None]:
    """Let whoever asks OpenVINO for a core without a configuration have :func:`openvino_core`.

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
