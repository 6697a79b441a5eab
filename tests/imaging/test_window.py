"""Windows: closed forms, pydicom's functions as the oracle, and no loss of grey levels."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anomalib_scrd.imaging import Picture, PictureInfo, Preparation, UnreadableImageError, VolumeOptions, Window
from anomalib_scrd.imaging.voi import VoiTable, VoiWindow


def picture(pixels: object, *, eight_bit: bool = False, **arguments: object) -> Picture:
    return Picture(np.asarray(pixels), PictureInfo(Path("a.dcm"), eight_bit=eight_bit), **arguments)


def deep(seed: int = 0, low: int = 0, high: int = 4096) -> Picture:
    return picture(np.random.default_rng(seed).integers(low, high, (64, 48), dtype=np.uint16))


def test_centre_and_width_are_linear_and_clip() -> None:
    window = Window.decide([100, 200], [deep()])
    assert window == Window("values", limits=(0.0, 200.0))
    image = window.apply(picture(np.array([[-50, 0, 50], [100, 200, 900]], np.int16)))
    assert_allclose(image, [[0, 0, 0.25], [0.5, 1, 1]])
    assert image.dtype == np.float32


def test_eight_bit_pictures_keep_their_values_by_default() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    window = Window.decide("auto", [picture(pixels, eight_bit=True)])
    assert_array_equal(window.apply(picture(pixels, eight_bit=True)), pixels * np.float32(1 / 255))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_a_lesion_of_20_of_4096_levels_survives(dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, 4076, (64, 64)).astype(dtype)
    lesion = pixels.copy()
    lesion[20:30, 20:30] += dtype(20)
    window = Window.decide("auto", [picture(pixels)])
    low, high = window.limits
    difference = window.apply(picture(lesion)) - window.apply(picture(pixels))
    inside = difference[20:30, 20:30]
    seen = (lesion[20:30, 20:30] < high) & (pixels[20:30, 20:30] > low)
    assert seen.mean() > 0.98
    assert_allclose(inside[seen], 20 / (high - low), rtol=1e-3)
    assert (difference[:20] == 0).all()


def test_sixteen_bits_keep_all_their_levels() -> None:
    pixels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    image = Window("values", limits=(0.0, 65535.0)).apply(picture(pixels))
    assert len(np.unique(image)) == 2**16


def test_wide_integers_are_scaled_in_double_precision() -> None:
    pixels = np.array([[2**31, 2**31 + 1]], np.uint32)
    image = Window("values", limits=(2.0**31 - 1, 2.0**31 + 2)).apply(picture(pixels))
    assert_allclose(image, [[1 / 3, 2 / 3]], rtol=1e-6)


def test_auto_takes_percentiles_of_all_deep_pictures_with_room_above() -> None:
    pictures = [deep(seed, 100 * seed, 100 * seed + 1000) for seed in range(4)]
    low, high = np.percentile(np.concatenate([p.pixels.ravel() for p in pictures]), (0.1, 99.9))
    window = Window.decide("auto", pictures)
    assert_allclose(window.limits, (low, high + 0.1 * (high - low)))
    window = Window.decide({"percentiles": [1, 99]}, pictures)
    assert_allclose(window.limits, np.percentile(np.concatenate([p.pixels.ravel() for p in pictures]), (1, 99)))


def test_auto_fits_a_mixture_of_depths() -> None:
    window = Window.decide("auto", [deep(), picture(np.zeros((4, 4), np.uint8), eight_bit=True)])
    assert window.eight_bit == (0.0, 255.0)
    assert window.limits is not None
    with pytest.raises(ValueError, match=r"window \[40, 400\] cannot fit both 8-bit pictures.*deeper ones"):
        Window.decide([40, 400], [deep(), picture(np.zeros((4, 4), np.uint8), eight_bit=True)])


def test_a_depth_that_was_not_trained_on_is_refused() -> None:
    window = Window.decide("auto", [deep()])
    with pytest.raises(UnreadableImageError, match=r"'a.dcm': it has 8 bits, and all training pictures had more"):
        window.apply(picture(np.zeros((4, 4), np.uint8), eight_bit=True))
    window = Window.decide("auto", [picture(np.zeros((4, 4), np.uint8), eight_bit=True)])
    with pytest.raises(UnreadableImageError, match=r"it has more than 8 bits.*MedicalFolder"):
        window.apply(deep())


def test_each_ignores_gain_and_offset() -> None:
    window = Window.decide({"each": [1, 99]}, [])
    one = deep()
    other = picture(one.pixels.astype(np.float64) * 3.5 + 700)
    assert_allclose(window.apply(one), window.apply(other), atol=1e-6)
    with pytest.raises(UnreadableImageError, match=r"percentiles \[1.0, 99.0\] of its pixels are equal"):
        window.apply(picture(np.where(np.arange(1000).reshape(20, 50) == 7, 5, 3)))


def test_padding_is_left_out_and_black() -> None:
    pixels = np.full((20, 20), -2000, np.int16)
    pixels[5:15, 5:15] = np.arange(100).reshape(10, 10)
    padded = picture(pixels, valid=pixels > -2000)
    window = Window.decide({"percentiles": [0, 100]}, [padded])
    assert window.limits == (0.0, 99.0)
    image = window.apply(padded)
    assert (image[:5] == 0).all()
    assert image[14, 14] == 1


def test_colour_shares_one_window() -> None:
    pixels = np.random.default_rng(0).integers(0, 60000, (8, 8, 3), dtype=np.uint16)
    image = Window("values", limits=(0.0, 60000.0)).apply(picture(pixels))
    assert_allclose(image, pixels / 60000, atol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (0.5, 1), (-600, 1500.5)])
def test_voi_windows_are_those_of_pydicom(function: str, centre: float, width: float) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import apply_windowing

    if function == "LINEAR_EXACT" and width == 1:
        pytest.skip("the same as others")
    data = pydicom.Dataset()
    data.PhotometricInterpretation, data.BitsStored, data.PixelRepresentation = "MONOCHROME2", 16, 0
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = centre, width, function
    values = np.arange(-3000, 3000, 7, dtype=np.float64)
    expected = apply_windowing(values, data) / 65535
    assert_allclose(VoiWindow(centre, width, function).apply(values), expected, atol=1e-6)


def test_voi_tables_are_those_of_pydicom() -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import apply_voi

    entries = (np.sqrt(np.arange(512)) * 180).astype(np.uint16)
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [512, 100, 12], entries.tolist()
    item["LUTDescriptor"].VR = "US"
    data = pydicom.Dataset()
    data.BitsStored, data.VOILUTSequence = 12, [item]
    values = np.arange(0, 1000, dtype=np.int16)
    assert_allclose(VoiTable(100, entries.astype(int), 12).apply(values), apply_voi(values, data) / 4095, atol=1e-6)


def test_a_file_is_shown_by_its_own_window() -> None:
    values = np.array([[0, 50], [100, 150]], np.int16)
    both = picture(values, voi=(VoiWindow(50, 101), VoiWindow(100, 101)))
    assert_allclose(Window.decide("file", []).apply(both), [[0, 0.5], [1, 1]], atol=0.006)
    assert_allclose(Window.decide({"file": 1}, []).apply(both), [[0, 0], [0.5, 1]], atol=0.006)
    with pytest.raises(UnreadableImageError, match=r"recommends 2 windows, and number 2"):
        Window.decide({"file": 2}, []).apply(both)
    # MONOCHROME1: the window is one of the stored values.
    inverted = picture(1000 - values, voi=(VoiWindow(50, 101),), mirror=1000.0)
    assert_allclose(Window.decide("file", []).apply(inverted), [[1, 0.5], [0, 0]], atol=0.006)


@pytest.mark.parametrize("spec", ["auto", [40, 400], {"percentiles": [1, 99]}, {"each": [1, 99]}, {"file": 1}])
def test_a_window_survives_json(spec: object) -> None:
    window = Window.decide(spec, [deep()])
    assert Window.from_dict(json.loads(json.dumps(window.to_dict()))) == window
    preparation = Preparation(
        window, pad_to_square=True, volumes=VolumeOptions("coronal", (0.2, 0.8), skip_empty=False)
    )
    assert Preparation.from_dict(json.loads(json.dumps(preparation.to_dict()))) == preparation


@pytest.mark.parametrize(
    "spec",
    [
        *("automatic", [40], [40, 400, 1], [40, 0], [40, float("nan")], {"each": [99, 1]}, {"percentiles": [-1, 50]}),
        *({"file": -1}, {"file": True}, {"mean": 3}, {}, None, 7, {"each": 5}),
    ],
)
def test_a_wrong_window_is_refused(spec: object) -> None:
    with pytest.raises(ValueError, match=r"^window .*got "):
        Window.check(spec)


def test_a_window_from_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="the stored window has mode 'curve'"):
        Window.from_dict({"mode": "curve"})


def test_no_pictures_and_equal_pictures() -> None:
    with pytest.raises(ValueError, match="at least one training picture, got none"):
        Window.decide("auto", [])
    with pytest.raises(ValueError, match=r"both percentiles of the training pixels are 7"):
        Window.decide("auto", [picture(np.full((4, 4), 7, np.uint16))])
