"""Draw the four kinds of synthetic anomalies, each at the three extents on which the weights of the scales are fitted.

    python examples/synthetic_anomalies.py picture.png           # on drawn slices
    python examples/synthetic_anomalies.py picture.png FOLDER    # on normal images of your own, two at least

Places of an anomaly are outlined. Needs ``pip install ".[benchmark]"``.
"""

import argparse
from pathlib import Path

import torch
from anomalib.data.utils import read_image
from matplotlib.figure import Figure
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import resize

from anomalib_scrd.data.phantom_drawing import draw_slices, sample_anatomy
from anomalib_scrd.noise import MIXED, SyntheticAnomalies
from anomalib_scrd.presets import PRESETS
from anomalib_scrd.scoring.fitting import FIT_EXTENTS

SIDE = 128
TITLES = {
    "simplex": "simplex noise",
    "paste": "patch of another image",
    "ellipse": "brighter, darker, other contrast, blurred",
    "texture": "foreign texture",
}
EXTENTS = ("small", "medium", "large")


def normal_images(folder: Path | None) -> torch.Tensor:
    """Normal images (N, 3, 128, 128) in [0, 1]: the first twelve of a folder, or drawn slices."""
    if folder is None:
        generator = torch.Generator().manual_seed(1)
        slices, _ = draw_slices(sample_anatomy(12, generator), SIDE, SIDE, generator)
        return slices.unsqueeze(1).expand(-1, 3, -1, -1)
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMG_EXTENSIONS)[:12]
    if len(files) < 2:
        msg = f"{folder} must be a folder with two normal images or more"
        raise SystemExit(msg)
    return torch.stack([resize(read_image(file, as_tensor=True), [SIDE, SIDE]) for file in files])


def draw(normal: torch.Tensor, path: Path) -> None:
    """Draw the kinds side by side, two to a row, from small to large.

    Args:
        normal: (N, 3, H, W) in [0, 1].
        path: Picture to write.
    """
    options = PRESETS["default"].noise.as_dict()
    anomalies = SyntheticAnomalies(**{name: value for name, value in options.items() if name != "share"})
    generator = torch.Generator().manual_seed(23)
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    for group, name in zip(figure.subfigures(2, 2, wspace=0.02).flat, MIXED, strict=True):
        group.suptitle(TITLES[name], fontsize=9)
        for number, axes in enumerate(group.subplots(1, len(FIT_EXTENTS))):
            image = normal[(3 * MIXED.index(name) + number) % len(normal)].unsqueeze(0)
            spoilt, places = anomalies.spoil(image, normal, name, FIT_EXTENTS[number], generator)
            axes.imshow(spoilt[0].movedim(0, -1))
            axes.contour(places[0, 0].float(), levels=[0.5], colors="#ff5500", linewidths=0.7)
            axes.set_axis_off()
            axes.set_title(EXTENTS[number], fontsize=7, pad=2)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Read the command line, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="picture to write, .png")
    parser.add_argument("folder", type=Path, nargs="?", help="folder with normal images; drawn slices without it")
    arguments = parser.parse_args()
    draw(normal_images(arguments.folder), arguments.picture)


if __name__ == "__main__":
    main()
