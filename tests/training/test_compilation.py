"""Compiled forms: during a training, in the requested mode."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_scrd.noise import Normalisation, SyntheticAnomalies, patches, step_generator
from anomalib_scrd.training import compilation
from anomalib_scrd.training.compilation import CompiledModules
from tests.models import build_engine, build_quick_model


@pytest.mark.parametrize(("value", "mode", "steps"), [(True, None, 0), ("reduce-overhead", "reduce-overhead", 2)])
def test_the_mode_is_passed_to_torch(
    value: object, mode: str | None, steps: int, tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA graphs overwrite the outputs of the previous step, so torch is notified when a step begins."""
    seen: list[object] = []

    def compiled(module: nn.Module, **arguments: object) -> nn.Module:
        seen.append(arguments)
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: seen.append("step"))
    model = build_quick_model(compile_model=value)
    assert model.hparams["compile_model"] == value
    build_engine(tmp_path, max_steps=2, limit_val_batches=0, logger=False).fit(model, datamodule=tiny_data())
    assert seen == [{"mode": mode}] * 3 + ["step"] * steps


def test_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="compile_model must be true, false or reduce-overhead, got 'fast'"):
        build_quick_model(compile_model="fast")


def test_gradients_are_not_accumulated_in_cuda_graphs(tiny_data: Callable, tmp_path: Path) -> None:
    """The next batch would overwrite them."""
    model = build_quick_model(compile_model="reduce-overhead")
    engine = build_engine(tmp_path, max_steps=2, accumulate_grad_batches=2, limit_val_batches=0, logger=False)
    with pytest.raises(ValueError, match="compile_model 'reduce-overhead' needs accumulate_grad_batches 1, got 2"):
        engine.fit(model, datamodule=tiny_data())


class Tape(TorchDispatchMode):
    """Stands in for a CUDA graph: the same operations again, on the same memory, whatever the host says by now."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def register_generator_state(self, generator: torch.Generator) -> None:
        """Nothing to do: the operations hold it."""

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if not any(returned.alias_info for returned in func._schema.returns):  # neither a view nor in place
                for old, new in zip(
                    *(x if isinstance(x, (list, tuple)) else [x] for x in (result, again)), strict=True
                ):
                    old.copy_(new)


@pytest.mark.parametrize("kind", ["mixed", "simplex"])
def test_replayed_anomalies_are_those_of_ordinary_calls(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For other images, seeds and turns than those that were recorded."""
    tapes: list[Tape] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: tapes.append(Tape()) or tapes[-1])
    monkeypatch.setattr(torch.cuda, "graph", lambda tape, **_: tape)
    stream = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(compilation, "_GRAPHS_ON", {"cpu"})
    monkeypatch.setattr(patches, "_count_is_known", lambda _: False)
    make = SyntheticAnomalies(kind, [0.1, 0.4], [0.05, 0.5], 0.125, 6, 0.6)
    compiled = CompiledModules(nn.Identity(), mode="reduce-overhead")
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    compiled.on_fit_start(SimpleNamespace(accumulate_grad_batches=1), None)
    normalisation = Normalisation(torch.full((3,), 0.4), torch.full((3,), 0.3))
    for step in range(10):
        images = torch.randn(8 if step < 9 else 5, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        arguments = {"turn": step, "normalisation": normalisation}
        expected = make(images, generator=step_generator(7, step), **arguments)
        found = compiled.anomalies(make, images, generator=step_generator(7, step), **arguments)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), step
    assert [tape.replays for tape in tapes] == [3, 2, 2, 2, 1]
    compiled.on_fit_end(None, None)
    assert compiled._recorded == {}
