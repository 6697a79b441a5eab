"""What cannot be seen without a GPU: CUDA graphs, and whether the host waits in the loop of a training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from anomalib_scrd.noise import SyntheticAnomalies, step_generator
from anomalib_scrd.training.compilation import _record
from tests.models import build_engine, build_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("kind", ["mixed", "simplex"])
def test_a_graph_makes_the_anomalies_of_an_ordinary_call(kind: str) -> None:
    make = SyntheticAnomalies(kind, [0.1, 0.4], [0.05, 0.5], 0.125, 6, 0.6)
    images = torch.rand(5, 8, 3, 64, 64, device="cuda")
    graph, shown, own, found = _record(make, images[0], turn=1)
    for step in range(1, 5):
        shown.copy_(images[step])
        generator = step_generator(7, step, device="cuda")
        own.manual_seed(generator.initial_seed())
        graph.replay()
        expected = make(images[step], generator=generator, turn=1)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Losses(Callback):
    """Keeps them on the device; in some epochs torch raises an error where the host waits."""

    def __init__(self, watched: range) -> None:
        self.watched = watched
        self.losses: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, _module: object, _batch: object, index: int) -> None:
        if trainer.current_epoch in self.watched and index == 1:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, _trainer: Trainer, _module: object, outputs: dict, _batch: object, index: int) -> None:
        self.losses.append(outputs["loss"].clone())
        if index == 2:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


def fit(data: object, root: Path, watched: range, **arguments: object) -> torch.Tensor:
    look = Losses(watched)
    model = build_model(seed=3, scoring={"held_out": 0.0}, **arguments)
    settings = {"accelerator": "gpu", "max_epochs": 20, "limit_val_batches": 0, "logger": False, "callbacks": [look]}
    # no rows of the log: in a step that writes one the host waits for its numbers
    build_engine(root, log_every_n_steps=0, **settings).fit(model, datamodule=data)
    return torch.stack(look.losses).cpu()


@pytest.mark.parametrize("cache", [0.0, 1.0])
def test_a_training_never_makes_the_host_wait(cache: float, tiny_data: Callable, tmp_path: Path) -> None:
    fit(tiny_data(), tmp_path, range(2, 20), feature_cache=cache, layers=["layer1", "layer2"])


def test_a_training_by_cuda_graphs_is_the_ordinary_one(tiny_data: Callable, tmp_path: Path) -> None:
    """Up to rounding, which Adam enlarges: at a low rate."""
    arguments = {"feature_cache": 1.0, "optimiser": {"learning_rate": 1e-4}, "layers": ["layer1", "layer2"]}
    graphs = {"compile_model": "reduce-overhead"}
    losses = [fit(tiny_data(), tmp_path / str(len(more)), range(0), **arguments, **more) for more in ({}, graphs)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=0)
