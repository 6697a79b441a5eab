"""A folder of drawn phantom slices: its layout, its file of parameters, and its atomic creation."""

__all__ = ["PARAMETERS_FILE", "PhantomSpec", "is_drawn", "write_phantoms"]

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anomalib_scrd.data.phantom_drawing import LESION_SIZES, draw_slices, sample_anatomy, sample_lesions

PARAMETERS_FILE = "phantom_slices.json"
"""File with the parameters of a complete folder."""

_VERSION = 2  # to be increased when the same parameters give other pictures
_CHUNK = 8  # heads drawn at once, to bound the memory; the pictures of a seed depend on it


@dataclass(frozen=True)
class PhantomSpec:
    """All parameters of the pictures.

    Args:
        height: Image height in pixels, 32 or more.
        width: Image width in pixels, 32 or more.
        n_train: Healthy training slices, 1 or more.
        n_val_good: Healthy validation slices.
        n_val_lesions: Validation slices with a lesion, for each size of lesion.
        n_test_good: Healthy test slices.
        n_test_lesions: Test slices with a lesion, for each size of lesion.
        seed: Seed of all pictures, 0 or more.

    Raises:
        ValueError: If a value is out of range; the message names it.
    """

    height: int
    width: int
    n_train: int
    n_val_good: int
    n_val_lesions: int
    n_test_good: int
    n_test_lesions: int
    seed: int

    def __post_init__(self) -> None:
        """Check every value."""
        least = {"height": 32, "width": 32, "n_train": 1, "seed": 0}
        for name, value in asdict(self).items():
            low = least.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                shown = f"image_size ({name})" if name in {"height", "width"} else name
                msg = f"{shown} must be an integer of at least {low}, got {value!r}"
                raise ValueError(msg)

    def folders(self) -> Iterator[tuple[Path, Path | None, str | None, int, int]]:
        """Yield each folder: images, masks, kind of lesion, number of slices, and its stream of random numbers.

        The streams differ, so that every folder has other heads.
        """
        yield Path("train/good"), None, None, self.n_train, 0
        for stream, split, good, lesions in (
            (1, "valid", self.n_val_good, self.n_val_lesions),
            (2, "test", self.n_test_good, self.n_test_lesions),
        ):
            yield Path(split, "good"), None, None, good, 10 * stream
            masks = Path("ground_truth" if split == "test" else "valid_ground_truth")
            for index, kind in enumerate(LESION_SIZES):
                yield Path(split, kind), masks / kind, kind, lesions, 10 * stream + index + 1

    def parameters(self) -> dict[str, int]:
        """Contents of the file of parameters."""
        return {"version": _VERSION, **asdict(self)}


def is_drawn(root: Path, spec: PhantomSpec) -> bool:
    """Whether a folder has exactly these slices.

    Args:
        root: The folder.
        spec: Its expected pictures.

    Returns:
        True if the parameters and the number of files in each folder match.
    """
    if _read_parameters(root) != spec.parameters():
        return False
    for images, masks, _, count, _ in spec.folders():
        for folder in (images, masks):
            if folder is not None and sum(1 for _ in (root / folder).glob("*.png")) != count:
                return False
    return True


def write_phantoms(root: Path, spec: PhantomSpec) -> None:
    """Draw the slices into a new folder and rename it to ``root`` when it is complete.

    If drawing is interrupted, ``root`` is unchanged. Two processes may draw the same folder at once.

    Args:
        root: The folder: a path that does not exist, an empty folder or one that was drawn before.
        spec: The pictures.

    Raises:
        ValueError: If ``root`` has files that were not drawn here; it is unchanged.
    """
    root = root.resolve()  # a symbolic link is kept
    if root.exists() and _read_parameters(root) is None and (not root.is_dir() or any(root.iterdir())):
        msg = (
            f"root {str(root)!r} exists and was not drawn by PhantomSlices (it has no {PARAMETERS_FILE}); "
            "give a new or an empty folder"
        )
        raise ValueError(msg)
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (root.parent / f".{root.name}-{kind}-{uuid.uuid4().hex[:8]}" for kind in ("new", "old"))
    try:
        _draw_into(fresh, spec)
        if root.exists():
            root.rename(old)
        try:
            fresh.rename(root)
        except OSError:
            if not is_drawn(root, spec):  # otherwise another process was faster, with the same pictures
                raise
    finally:
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)


def _read_parameters(root: Path) -> dict[str, int] | None:
    """Contents of the file of parameters, None without one."""
    try:
        return dict(json.loads((root / PARAMETERS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _draw_into(root: Path, spec: PhantomSpec) -> None:
    for images, masks, kind, count, stream in spec.folders():
        (root / images).mkdir(parents=True)
        if masks is not None:
            (root / masks).mkdir(parents=True)
        for first in range(0, count, _CHUNK):
            drawn = _chunk(spec, kind, stream, first)
            for index, (image, mask) in enumerate(zip(*drawn, strict=True), start=first):
                if index == count:
                    break
                name = f"{index:05d}.png"
                Image.fromarray(image.numpy()).save(root / images / name)
                if masks is not None:
                    Image.fromarray(mask.numpy()).save(root / masks / name)
    (root / PARAMETERS_FILE).write_text(json.dumps(spec.parameters(), indent=2) + "\n", encoding="utf-8")


def _chunk(spec: PhantomSpec, kind: str | None, stream: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices and masks from ``first`` on, (8, H, W) uint8 each.

    A chunk is always drawn completely and from its own seed, so that earlier slices do not depend on the number of
    slices.
    """
    mixed = np.random.SeedSequence([spec.seed, stream, first]).generate_state(1)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    anatomy = sample_anatomy(_CHUNK, generator)
    lesions = None if kind is None else sample_lesions(_CHUNK, kind, generator)
    image, mask = draw_slices(anatomy, spec.height, spec.width, generator, lesions)
    return (image * 255).round().to(torch.uint8), mask.to(torch.uint8) * 255
