"""Scores of one trained model in other precisions and layouts, against float32.

``python -m tests.gpu.precision --output precision.csv --device auto`` trains a small model on drawn
images and compares; it needs no files.
"""

__all__ = ["BOUNDS", "FORMS", "compare", "main"]

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jsonargparse import CLI

from anomalib_scrd.benchmark.files import write_text
from anomalib_scrd.benchmark.machine import resolve_device
from anomalib_scrd.torch_model import ScaleAwareCRDModel

FORMS = ("bf16", "fp16", "channels_last", "tf32", "compiled")
"""The forms; TF32 has an effect on GPUs only."""
BOUNDS = {"bf16": 0.1, "fp16": 0.02, "channels_last": 1e-4, "tf32": 0.02, "compiled": 1e-3}
"""The largest difference of a score from float32 that is allowed, as a share of the range of the scores."""


@contextmanager
def _form(name: str, device: torch.device) -> Iterator[None]:
    """Autocast or TF32 for the time of a prediction."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    # convolutions on a GPU take TF32 by default: float32 has to be asked for
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    try:
        with torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@torch.no_grad()
def compare(model: ScaleAwareCRDModel, images: torch.Tensor, forms: tuple[str, ...] = FORMS) -> pd.DataFrame:
    """Predict in float32 and in other forms.

    Args:
        model: A trained model, on the images' device.
        images: (B, 3, H, W), normalised; two or more, of different scores.
        forms: Some of :data:`FORMS`.

    Returns:
        A row per form: ``score`` and ``map``, the largest differences from float32 relative to the range of the scores
        and of the maps; ``bound``, of :data:`BOUNDS`.
    """
    device = images.device
    model = model.eval()
    with _form("", device):
        exact = model(images)
    spans = [values.max() - values.min() for values in (exact.pred_score, exact.anomaly_map)]
    rows = []
    for form in forms:
        runner = torch.compile(model) if form == "compiled" else model
        shown = images.to(memory_format=torch.channels_last) if form == "channels_last" else images
        with _form(form, device):
            found = runner(shown)
        pairs = zip((found.pred_score, found.anomaly_map), (exact.pred_score, exact.anomaly_map), spans, strict=True)
        score, places = (((a.float() - b).abs().max() / span).item() for a, b, span in pairs)
        rows.append({"form": form, "score": score, "map": places, "bound": BOUNDS[form]})
    return pd.DataFrame(rows)


def main(
    output: Path,
    device: str = "auto",
    backbone: str = "resnet18",
    side: int = 128,
    steps: int = 200,
    compile: bool = True,  # noqa: A002 - the option's name
    seed: int = 0,
) -> None:
    """Train a model, compare its scores, and write a CSV file.

    Args:
        output: The file.
        device: ``auto`` or torch's name of the device.
        backbone: The teacher, with random weights.
        side: Height and width of the images.
        steps: Length of the training.
        compile: Whether to compare the compiled model too.
        seed: Of weights and images.
    """
    import tempfile

    from anomalib.engine import Engine

    from anomalib_scrd import PhantomSlices, ScaleAwareCRD

    place = resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="anomalib-scrd-") as scratch:
        data = PhantomSlices(root=Path(scratch) / "images", image_size=side, n_train=32, n_test_good=8, seed=seed)
        model = ScaleAwareCRD(backbone=backbone, pre_trained=False, seed=seed, visualizer=False)
        accelerator = "cpu" if place.type == "cpu" else "gpu"
        engine = Engine(default_root_dir=scratch, max_steps=steps, accelerator=accelerator, devices=1, logger=False)
        engine.fit(model, datamodule=data)
        transform: Any = getattr(model.pre_processor, "transform", None)
        batch = next(iter(data.test_dataloader()))
        # a plain tensor: torch.compile of torch 2.10 and 2.11 recurses endlessly into torchvision's subclass
        images = transform(batch.image).as_subclass(torch.Tensor).to(place)
    forms = FORMS if compile else FORMS[:-1]
    write_text(output, compare(model.model.to(place), images, forms).to_csv(index=False))


if __name__ == "__main__":
    CLI(main, as_positional=False, args=sys.argv[1:])
