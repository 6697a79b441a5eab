"""Orientation and padding: Pillow and nibabel as oracles, and the way back."""

from itertools import permutations, product

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from anomalib_scrd.imaging.orientation import Orientation, from_directions, from_exif, from_letters
from anomalib_scrd.imaging.padding import Padding, square

PICTURE = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)
ALL = [Orientation(*flags) for flags in product([False, True], repeat=3)]


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_is_what_pillow_makes_of_it(value: int) -> None:
    image = Image.fromarray(PICTURE)
    image.getexif()[274] = value
    assert_array_equal(from_exif(value).apply(PICTURE), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("orientation", ALL)
def test_undo_leads_back(orientation: Orientation) -> None:
    assert_array_equal(orientation.undo(orientation.apply(PICTURE)), PICTURE)
    colour = np.stack([PICTURE] * 3, axis=-1)
    assert_array_equal(orientation.undo(orientation.apply(colour)), colour)


def test_the_eight_exif_orientations_are_all_there_are() -> None:
    assert {from_exif(value) for value in range(1, 9)} == set(ALL)
    with pytest.raises(ValueError, match="orientation 9 is not one of EXIF's 1 to 8"):
        from_exif(9)


AXES = {0: (1.0, 0, 0), 1: (0, 1.0, 0), 2: (0, 0, 1.0)}  # left, posterior, superior


@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
def test_every_way_to_store_a_slice_shows_the_same_picture(plane: tuple[int, int]) -> None:
    """Positions along the patient's axes, stored in all eight orders, always come out in radiological order."""
    shown_down = {1: 1, 2: -1}[plane[1]]  # to the back, or to the feet
    for (columns, rows), (right, down) in product(permutations(plane), product([1, -1], repeat=2)):
        values = {columns: right * np.arange(4)[None, :], rows: down * np.arange(6)[:, None]}
        stored = values[plane[0]] + 10 * values[plane[1]] + np.zeros((6, 4), int)
        orientation = from_directions(np.multiply(right, AXES[columns]), np.multiply(down, AXES[rows]))
        shown = orientation.apply(stored)
        assert (np.diff(shown, axis=1) == 1).all()  # left, or to the back in a sagittal slice, to the right
        assert (np.diff(shown, axis=0) == 10 * shown_down).all()


def test_oblique_directions_take_the_nearest_axes() -> None:
    angle = np.radians(30)
    right = (np.cos(angle), np.sin(angle), 0.0)
    down = (-np.sin(angle), np.cos(angle), 0.0)
    assert from_directions(right, down) == Orientation()
    assert from_directions(np.negative(right), down) == Orientation(flip_columns=True)


@pytest.mark.parametrize("directions", [((0, 0, 0), (0, 1, 0)), ((1, 0, 0), (1, 0, 0)), ((np.nan, 0, 0), (0, 1, 0))])
def test_impossible_directions_are_refused(directions: tuple) -> None:
    with pytest.raises(ValueError, match="the directions of rows and columns"):
        from_directions(*directions)


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        (("L", "F"), Orientation()),
        (("R", "F"), Orientation(flip_columns=True)),
        (("L", "H"), Orientation(flip_rows=True)),
        (("F", "L"), Orientation(transpose=True)),
        (("H", "R"), Orientation(transpose=True, flip_rows=True, flip_columns=True)),
        (("A", "F"), Orientation()),  # lateral: both sides are in use
        (("P", "FL"), Orientation()),
        (("A", "R"), Orientation()),  # a mammogram
        (("", ""), Orientation()),
    ],
)
def test_letters_of_projections(letters: tuple[str, str], expected: Orientation) -> None:
    assert from_letters(*letters) == expected


@pytest.mark.parametrize(("height", "width"), [(6, 4), (4, 7), (5, 5), (1, 8)])
def test_a_square_has_the_picture_in_its_middle(height: int, width: int) -> None:
    picture = np.ones((height, width, 3), np.float32)
    padding = square(height, width)
    padded = padding.apply(picture)
    assert padded.shape == (max(height, width), max(height, width), 3)
    assert padded.sum() == picture.size
    assert abs(padding.top - padding.bottom) <= 1
    assert abs(padding.left - padding.right) <= 1
    assert_array_equal(padding.undo(padded), picture)


def test_a_square_of_the_patient_and_not_of_the_pixels() -> None:
    assert square(100, 200, (2.0, 1.0)) == Padding()
    assert square(100, 100, (2.0, 1.0)) == Padding(left=50, right=50)
    assert square(50, 300, (1.0, 0.5)) == Padding(top=50, bottom=50)
