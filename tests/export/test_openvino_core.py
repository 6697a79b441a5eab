"""OpenVINO's cores and the signal stack of a thread, in separate processes: those of the tests share one core."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import pytest
from anomalib.deploy import CompressionType

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.export import mixin, openvino_core
from tests.export.conftest import EDGE_SIZE, Exported, Trained

# The stack is queried instead of sending a signal: freed memory may be readable for a while.
_STACK = """
import ctypes, gc, runpy, sys
from contextlib import nullcontext
import numpy as np, openvino
from openvino import opset13 as opset

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def stack():
    gc.collect()
    found = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.sp, found.flags

def network():
    image = opset.parameter([1, 3, 16, 16], np.float32)
    layers = np.random.default_rng(0).normal(size=(2, 64, 64, 3, 3)).astype(np.float32)
    ones = [1, 1]
    inner = opset.convolution(image, opset.constant(layers[0, :, :3]), ones, ones, ones, ones)
    outer = opset.convolution(inner, opset.constant(layers[1]), ones, ones, ones, ones)
    return openvino.Model([opset.result(outer)], [image], "network")

kept = runpy.run_path(sys.argv[1])
shield = kept["one_core"] if sys.argv[2] == "one core" else nullcontext
kept["openvino_core"]().get_property("CPU", "FULL_DEVICE_NAME")
before = stack()
"""
_SEVERAL_CORES = """
with shield():
    first, second = (openvino.compile_model(network(), "CPU") for _ in range(2))
    third = openvino.Core().compile_model(network(), "CPU")
    del first
    del second, third
print("same" if stack() == before else "gone")
"""


def after(shield: str) -> str:
    command = [sys.executable, "-c", _STACK + _SEVERAL_CORES, openvino_core.__file__, shield]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout.split()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="the signal stack is looked at as Linux has it")
def test_the_signal_stack_is_left_as_it_was() -> None:
    """Otherwise the next signal, for example when a loader's worker process ends, kills Python."""
    assert after("none") == "gone", "several cores do no harm any more: one_core is not needed"
    assert after("one core") == "same"


@pytest.mark.parametrize("kind", ["INT8", "INT8_PTQ", "INT8_ACQ"])
def test_compressions_have_one_core(
    kind: str, edge: Trained, edge_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = openvino.Core
    seen: list[Any] = []

    def compressing(fails: bool) -> Callable[..., Any]:
        def compress(model: Any, *_: object, **__: object) -> Any:
            seen.append(openvino.Core)
            assert openvino.Core() is openvino_core.openvino_core()
            if fails:
                raise RuntimeError
            return model

        return compress

    monkeypatch.setattr(ScaleAwareCRD, "to_onnx", lambda *_args, **_kwargs: edge_export.onnx)
    for fails in (False, True):
        for name in ("compress_weights", "quantise", "quantise_with_accuracy_control"):
            monkeypatch.setattr(mixin, name, compressing(fails))
        arguments = {"input_size": EDGE_SIZE, "compression_type": CompressionType[kind], "datamodule": edge.data()}
        if fails:
            with pytest.raises(RuntimeError):
                edge.model.to_openvino(tmp_path, **arguments)
        else:
            edge.model.to_openvino(tmp_path, **arguments)
        assert openvino.Core is own
    assert len(seen) == 2
    assert own not in seen


def test_a_core_with_a_configuration_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "plugins.xml").write_text("<ie><plugins/></ie>")
    with openvino_core.one_core():
        assert openvino.Core(str(tmp_path / "plugins.xml")) is not openvino_core.openvino_core()
