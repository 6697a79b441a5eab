"""Position of a map on the original image, against the pixels after the transforms."""

import pytest
import torch
from anomalib.data.transforms import ExportableCenterCrop, SquarePad
from torch import nn
from torchvision.transforms import v2

from anomalib_scrd.visualisation.frame import map_frame

SIZE = 90, 150

CASES = {
    "nothing": ([], (0, 0, 150, 90)),
    "resize": ([v2.Resize((64, 64))], (0, 0, 150, 90)),
    "wide": ([v2.Resize((32, 96))], (0, 0, 150, 90)),
    "one number": ([v2.Resize(64)], (0, 0, 150, 90)),
    "crop": ([v2.CenterCrop(60)], (45, 15, 105, 75)),
    "resize and crop": ([v2.Resize((80, 80)), v2.CenterCrop(64)], (15, 9, 135, 81)),
    "anomalib's crop": ([v2.Resize((80, 80)), ExportableCenterCrop((64, 40))], (37.5, 9, 112.5, 81)),
    "one number and crop": ([v2.Resize(60), v2.CenterCrop(60)], (30, 0, 120, 90)),
    "pad": ([SquarePad(), v2.Resize((64, 64))], (0, -30, 150, 120)),
    "border": ([v2.Pad([10, 20, 30, 40])], (-10, -20, 180, 130)),
    "nested": ([None, v2.Compose([v2.Resize((80, 80)), nn.Sequential(v2.CenterCrop(64))])], (15, 9, 135, 81)),
}


@pytest.mark.parametrize("name", CASES)
def test_edges_by_hand(name: str) -> None:
    steps, edges = CASES[name]
    assert map_frame(steps, SIZE) == pytest.approx(edges, abs=0.6)


@pytest.mark.parametrize("name", ["crop", "resize and crop", "one number and crop", "pad", "wide"])
def test_a_spot_is_found_where_it_is(name: str) -> None:
    """A spot goes through the transforms as an image does; the frame brings it back."""
    steps, _ = CASES[name]
    image = torch.zeros(1, *SIZE)
    image[0, 33:39, 60:70] = 1  # centre (36, 65)
    seen = v2.Compose(steps)(image)[0]
    rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in seen.shape), indexing="ij")
    left, top, right, bottom = map_frame(steps, SIZE, tuple(seen.shape))
    column = left + (right - left) * (seen * columns).sum() / seen.sum() / seen.shape[1]
    row = top + (bottom - top) * (seen * rows).sum() / seen.sum() / seen.shape[0]
    assert (column, row) == pytest.approx((65, 36), abs=0.7)


def test_colour_transforms_move_nothing() -> None:
    steps = [v2.Compose([v2.Resize((64, 64)), v2.Grayscale(3), v2.Normalize([0.5] * 3, [0.2] * 3)])]
    assert map_frame(steps, SIZE, (64, 64)) == pytest.approx((0, 0, 150, 90), abs=0.6)


def test_a_map_of_another_size_lies_over_the_whole_image() -> None:
    assert map_frame([v2.CenterCrop(60)], SIZE, (32, 32)) == (0, 0, 150, 90)


def test_narrow_images() -> None:
    assert map_frame([SquarePad(), v2.Resize((64, 64))], (300, 60)) == pytest.approx((-120, 0, 180, 300), abs=4)
