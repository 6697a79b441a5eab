"""Tiny data sets in the layouts of MedIAnomaly."""

__all__ = ["BUILDERS", "COUNTS", "build", "save_image"]

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = (12, 4, 5)
"""Training, normal test and anomalous test images of every tree."""

_SIZE = (40, 48)


def save_image(path: Path, seed: int, mode: str = "L") -> None:
    """Write a smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (5, 6) if mode == "L" else (5, 6, 3)
    small = np.random.default_rng(seed).integers(60, 200, shape, dtype=np.uint8)
    Image.fromarray(small).resize(_SIZE[::-1], Image.Resampling.BILINEAR).save(path)


def build_json_set(folder: Path) -> None:
    """Images and data.json; the images are in random order, and one is in no list."""
    train, normal, anomalous = (
        [f"{(i * 7) % 10}_{part}{i}.png" for i in range(n)] for part, n in zip("abc", COUNTS, strict=True)
    )
    for seed, name in enumerate([*train, *normal, *anomalous, "unlisted.png"]):
        save_image(folder / "images" / name, seed)
    lists = {"train": {"0": train, "unlabeled": {"0": [], "1": []}}, "test": {"0": normal, "1": anomalous}}
    (folder / "data.json").write_text(json.dumps(lists), encoding="utf-8")


def build_isic(folder: Path) -> None:
    """Two folders of JPEG files with their CSV; the training CSV also lists four lesions that are not NV."""
    columns = ["image", "MEL", "NV", "BCC"]
    for first, (split, normal, other) in enumerate((("Training", COUNTS[0], 4), ("Test", COUNTS[1], COUNTS[2]))):
        lines = [",".join(columns)]
        for index in range(normal + other):
            name = f"ISIC_{split}{index:03d}"
            save_image(folder / f"ISIC2018_Task3_{split}_Input" / f"{name}.jpg", 100 * first + index, "RGB")
            lines.append(f"{name},0.0,1.0,0.0" if index < normal else f"{name},1.0,0.0,0.0")
        stem = f"ISIC2018_Task3_{split}_GroundTruth"
        (folder / stem).mkdir()
        (folder / stem / f"{stem}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_camelyon(folder: Path) -> None:
    """Folders good and Ungood."""
    for first, (part, count) in enumerate(zip(("train/good", "test/good", "test/Ungood"), COUNTS, strict=True)):
        for index in range(count):
            save_image(folder / part / f"{index}.png", 100 * first + index, "RGB")
    (folder / "train/good/._0.png").write_bytes(b"left by an archiver")


def build_brats(folder: Path) -> None:
    """Images with "flair" in their names, masks with "seg"; the mask of image i marks row i."""
    for first, (part, count) in enumerate(zip(("train", "test/normal", "test/tumor"), COUNTS, strict=True)):
        for index in range(count):
            save_image(folder / part / f"BraTS_{index:02d}_flair_60.png", 100 * first + index)
    (folder / "test/annotation").mkdir()
    for index in range(COUNTS[2]):
        mask = np.zeros(_SIZE, dtype=np.uint8)
        mask[index, : 2 * index + 2] = 255
        Image.fromarray(mask).save(folder / "test/annotation" / f"BraTS_{index:02d}_seg_60.png")


BUILDERS: dict[str, Callable[[Path], None]] = {
    "RSNA": build_json_set,
    "VinCXR": build_json_set,
    "BrainTumor": build_json_set,
    "LAG": build_json_set,
    "ISIC2018_Task3": build_isic,
    "Camelyon16": build_camelyon,
    "BraTS2021": build_brats,
}


def build(root: Path, name: str) -> Path:
    """Write a tree and return the folder of the set."""
    folder = root / name
    folder.mkdir(parents=True)
    BUILDERS[name](folder)
    return folder
