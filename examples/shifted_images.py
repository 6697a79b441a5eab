"""False alarms under global changes of normal images: brightness, contrast, a few degrees, a few pixels.

    python examples/shifted_images.py brain=brain.ckpt=path/to/brain magnetic=magnetic.ckpt=path/to/magnetic

For each checkpoint the threshold is the 95 % quantile of the scores of the normal test images in ``test/good``; the
table has the share of the same images above it after each change. Rotated and shifted images are padded by reflection.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from anomalib.data import Folder
from torchvision.transforms.v2.functional import adjust_contrast

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.scoring.global_changes import moved

_ALARMS = 0.05

CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda images: images,
    "gain 0.9": lambda images: 0.9 * images,
    "gain 1.1": lambda images: 1.1 * images,
    "offset -0.05": lambda images: images - 0.05,
    "offset 0.05": lambda images: images + 0.05,
    "contrast 0.85": partial(adjust_contrast, contrast_factor=0.85),
    "contrast 1.15": partial(adjust_contrast, contrast_factor=1.15),
    "3 degrees": partial(moved, degrees=3.0),
    "-3 degrees": partial(moved, degrees=-3.0),
    "3 pixels": partial(moved, pixels=3),
}


@torch.no_grad()
def false_alarms(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Share of the normal test images above the threshold, by change."""
    model = ScaleAwareCRD.load_from_checkpoint(checkpoint, pre_trained=False, map_location="cpu").eval()
    data = Folder(name="normal", root=folder, normal_dir="test/good", test_split_mode="none", val_split_mode="none")
    data.setup()
    *before, normalise = model.pre_processor.transform.transforms
    images = [item.image[None] for item in data.train_data]
    for step in before:
        images = [step(image) for image in images]
    normal = torch.cat(images)

    def scores(changed: torch.Tensor) -> torch.Tensor:
        pieces = normalise(changed.clamp(0, 1)).split(16)
        return torch.cat([model.model(piece).pred_score for piece in pieces])

    threshold = scores(normal).quantile(1 - _ALARMS)
    return {name: (scores(change(normal)) > threshold).float().mean().item() for name, change in CHANGES.items()}


def main() -> None:
    """Print a table, a row per change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=CHECKPOINT=FOLDER")
    rows = [entry.split("=") for entry in parser.parse_args().sets]
    found = {name: false_alarms(Path(checkpoint), Path(folder)) for name, checkpoint, folder in rows}
    print("| change |", " | ".join(found), "| mean |")
    print("|---|" + "---|" * (len(found) + 1))
    for change in CHANGES:
        shares = [alarms[change] for alarms in found.values()]
        print(f"| {change} |", " | ".join(f"{share:.2f}" for share in [*shares, sum(shares) / len(shares)]), "|")


if __name__ == "__main__":
    main()
