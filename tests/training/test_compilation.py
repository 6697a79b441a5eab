"""Compiled forms: during a training, in the requested mode."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.models import build_engine, build_model


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
    model = build_model(layers=["layer1", "layer2"], compile_model=value)
    assert model.hparams["compile_model"] == value
    build_engine(tmp_path, max_steps=2, limit_val_batches=0, logger=False).fit(model, datamodule=tiny_data())
    assert seen == [{"mode": mode}] * 2 + ["step"] * steps


def test_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="compile_model must be true, false or reduce-overhead, got 'fast'"):
        build_model(compile_model="fast")
