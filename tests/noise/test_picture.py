"""The picture of the kinds of anomalies, drawn by an example."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_scrd.noise import MIXED
from anomalib_scrd.scoring.fitting import FIT_EXTENTS

SCRIPT = Path(__file__).parents[2] / "examples/synthetic_anomalies.py"


def draw(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def outlines(picture: Path) -> int:
    """Number of images of a picture, a grid of 2 x 6, with a complete outline of an anomaly."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    orange = pixels[..., 0] - pixels[..., 2] > 100
    parts = [part for row in np.array_split(orange, 2) for part in np.array_split(row, 6, axis=1)]
    return sum(part.sum() > 10 for part in parts)


def test_every_kind_is_drawn_at_every_extent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = len(MIXED) * len(FIT_EXTENTS)
    draw(monkeypatch, tmp_path / "drawn.png")
    assert outlines(tmp_path / "drawn.png") == number
    assert outlines(SCRIPT.with_suffix(".png")) == number
    own, source = tmp_path / "own", np.random.default_rng(0)
    own.mkdir()
    for index in range(2):
        Image.fromarray(source.integers(90, 110, (40, 50), dtype=np.uint8)).save(own / f"{index}.png")
    draw(monkeypatch, tmp_path / "of_own.png", own)
    assert outlines(tmp_path / "of_own.png") == number


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_images_is_named(made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "none"
    if made:
        folder.mkdir()
    with pytest.raises(SystemExit, match=f"{folder} must be a folder with two normal images or more"):
        draw(monkeypatch, tmp_path / "drawn.png", folder)
    assert not (tmp_path / "drawn.png").exists()
