"""Files that Pillow opens: depth, colour, orientation, damage."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from anomalib_scrd.imaging import Orientation, UnreadableImageError, list_pictures, pictures_of, read_picture

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (12, 9), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (12, 9), dtype=np.uint16)
COLOUR8 = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)
COLOUR16 = RNG.integers(0, 65536, (12, 9, 3), dtype=np.uint16)
FLOAT = RNG.normal(0, 1, (12, 9)).astype(np.float32)


def only(path: Path):
    (info,) = list_pictures(path)
    picture = read_picture(info)
    ((again, count),) = pictures_of(path)  # in one pass: the same picture
    assert (count, again.info, again.orientation, again.spacing) == (1, info, picture.orientation, picture.spacing)
    assert again.pixels.dtype == picture.pixels.dtype
    assert_array_equal(again.pixels, picture.pixels)
    return picture


@pytest.mark.parametrize(("name", "times"), [("a.png", 1), ("a.jpg", 1), ("a.bmp", 1), ("a.tif", 2)])
def test_a_file_that_holds_one_picture_is_parsed_once(
    tmp_path: Path, name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(GREY8).save(tmp_path / name)
    opened, genuine = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(1) or genuine(*args, **kwargs))
    assert len(list(pictures_of(tmp_path / name))) == 1
    assert len(opened) == times


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
@pytest.mark.parametrize("pixels", [GREY8, COLOUR8], ids=["grey", "colour"])
def test_eight_bits(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    picture = only(tmp_path / name)
    assert picture.info.eight_bit
    assert_array_equal(picture.pixels, pixels)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("pixels", [GREY16, COLOUR16], ids=["grey", "colour"])
def test_sixteen_bits(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / name), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    picture = only(tmp_path / name)
    assert not picture.info.eight_bit
    assert_array_equal(picture.pixels, pixels)


def test_sixteen_bits_with_alpha(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([COLOUR16[..., ::-1], GREY16]))
    assert_array_equal(only(tmp_path / "a.png").pixels, COLOUR16)


def test_sixteen_bits_grey_with_alpha(tmp_path: Path) -> None:
    """A PNG of colour type 4, which OpenCV does not write: by hand."""
    raw = np.stack([GREY16, np.full_like(GREY16, 65535)], axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in raw)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9, 12, 16, 4, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(UnreadableImageError, match="PNG of 16 bits in the layout LA;16B: save it as TIFF"):
        only(tmp_path / "a.png")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16, np.int32, np.uint32, ">u2", ">f4"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiff_of_every_depth(tmp_path: Path, dtype: object, compression: str | None) -> None:
    pixels = (FLOAT * 3000).astype(dtype) if np.dtype(dtype).kind != "u" else np.abs(FLOAT * 3000).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tiff", pixels, compression=compression, byteorder=">" if ">" in str(dtype) else "<")
    picture = only(tmp_path / "a.tiff")
    assert not picture.info.eight_bit
    assert picture.pixels.dtype.isnative
    assert_array_equal(picture.pixels, pixels)


def test_tiff_where_white_is_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", GREY16, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "flat.tif", GREY8, photometric="miniswhite")
    assert_array_equal(only(tmp_path / "deep.tif").pixels, 65535 - GREY16.astype(int))
    assert_array_equal(only(tmp_path / "flat.tif").pixels, 255 - GREY8)


def test_pages_of_a_tiff_are_pictures_and_thumbnails_are_not(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY16)
        file.write(GREY16[::2, ::2], subfiletype=1)
        file.write(GREY16[::-1])
    infos = list_pictures(tmp_path / "a.tif")
    assert [info.index for info in infos] == [0, 2]
    assert [Path(info.name).name for info in infos] == ["a_0000.tif", "a_0002.tif"]
    assert_array_equal(read_picture(infos[1]).pixels, GREY16[::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_stack_behind_one_page_is_refused(tmp_path: Path, dtype: type) -> None:
    stack = RNG.integers(0, 256, (5, 16, 32)).astype(dtype)
    path, imagej = tmp_path / "a.tif", "ImageJ=1.53t\nimages=5\nslices=5\n"

    def refused() -> None:
        with pytest.raises(UnreadableImageError, match=r"a.tif': it has 5 pictures and only 1 pages"):
            list_pictures(path)

    tifffile.imwrite(path, stack, truncate=True, metadata=None, description=imagej)
    refused()
    tifffile.imwrite(path, stack, truncate=True)
    refused()
    tifffile.imwrite(path, np.stack([stack] * 3, -1), truncate=True, photometric="rgb")
    refused()
    tifffile.imwrite(path, stack, volumetric=True, tile=(5, 16, 32))
    refused()
    tifffile.imwrite(path, stack, imagej=True)
    assert len(list_pictures(path)) == 5
    tifffile.imwrite(path, stack)
    assert len(list_pictures(path)) == 5
    tifffile.imwrite(path, stack[0], metadata=None, description=imagej)  # one of the pictures, saved alone
    assert_array_equal(only(path).pixels, stack[0])


def test_more_values_than_colours_are_refused(tmp_path: Path) -> None:
    stack = RNG.integers(0, 4096, (5, 12, 9), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", planarconfig="separate")
    with pytest.raises(UnreadableImageError, match=r"a.tif': its pixels have 5 values that are not RGB"):
        only(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", GREY16, photometric="palette", colormap=np.zeros((3, 65536), np.uint16))
    with pytest.raises(UnreadableImageError, match=r"b.tif': its 16 bits are places in a palette"):
        only(tmp_path / "b.tif")


def test_signed_numbers_of_eight_bits(tmp_path: Path) -> None:
    signed = (GREY8.astype(int) - 128).astype(np.int8)
    tifffile.imwrite(tmp_path / "a.tif", signed)
    picture = only(tmp_path / "a.tif")
    assert not picture.info.eight_bit
    assert_array_equal(picture.pixels, signed)


@pytest.mark.parametrize("largest", [15, 255, 300, 4095, 65534, 65535])
@pytest.mark.parametrize("kind", [b"P2", b"P5"])
def test_pgm_has_its_own_numbers(tmp_path: Path, largest: int, kind: bytes) -> None:
    values = np.linspace(0, largest, 108).round().astype(">u2" if largest > 255 else np.uint8).reshape(12, 9)
    body = values.tobytes() if kind == b"P5" else " ".join(map(str, values.ravel())).encode()
    (tmp_path / "a.pgm").write_bytes(kind + b"\n9 12\n%d\n" % largest + body)
    picture = only(tmp_path / "a.pgm")
    assert picture.info.eight_bit == (largest < 256)
    assert_array_equal(picture.pixels, np.rint(values * (255 / largest)) if largest < 256 else values)


@pytest.mark.parametrize("kind", [b"P3", b"P6"])
@pytest.mark.parametrize("largest", [4095, 65535])
def test_deep_ppm_is_refused(tmp_path: Path, kind: bytes, largest: int) -> None:
    values = (COLOUR16.astype(int) % (largest + 1)).astype(">u2")
    body = values.tobytes() if kind == b"P6" else " ".join(map(str, values.ravel())).encode()
    (tmp_path / "a.ppm").write_bytes(kind + b"\n9 12\n%d\n" % largest + body)
    with pytest.raises(UnreadableImageError, match=r"a.ppm': PPM of 16 bits in the layout RGB: save it as TIFF"):
        only(tmp_path / "a.ppm")


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_has_its_own_numbers(tmp_path: Path, bits: int) -> None:
    deep = np.tile(COLOUR16, (4, 4, 1))  # the codec needs some size
    values = deep[..., 0] >> (16 - bits)
    # OpenCV writes 16 bits; with other depths in the header, the numbers change by half of the ranges' difference.
    moved = values + np.uint16(2**15 - 2 ** (bits - 1))
    cv2.imwrite(str(tmp_path / "a.jp2"), moved, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])

    def declare(depth: int) -> None:
        content = bytearray((tmp_path / "a.jp2").read_bytes())
        content[content.index(b"ihdr") + 14] = content[content.index(b"\xff\x4f\xff\x51") + 42] = depth
        (tmp_path / "a.jp2").write_bytes(content)

    declare(bits - 1)
    picture = only(tmp_path / "a.jp2")
    assert not picture.info.eight_bit
    assert_array_equal(picture.pixels, values)
    declare(0x80 | (bits - 1))
    with pytest.raises(UnreadableImageError, match=f"a.jp2': JPEG 2000 of signed numbers of {bits} bits"):
        only(tmp_path / "a.jp2")
    cv2.imwrite(str(tmp_path / "b.jp2"), deep)
    with pytest.raises(UnreadableImageError, match=r"b.jp2': JPEG2000 of 16 bits in the layout RGB: save it as TIFF"):
        only(tmp_path / "b.jp2")
    Image.fromarray(COLOUR8).save(tmp_path / "c.jp2")
    assert_array_equal(only(tmp_path / "c.jp2").pixels, COLOUR8)
    Image.fromarray(GREY8).save(tmp_path / "d.jp2")
    assert_array_equal(only(tmp_path / "d.jp2").pixels, GREY8)


def test_planes_of_colour_in_a_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(COLOUR16, -1, 0), photometric="rgb", planarconfig="separate")
    assert_array_equal(only(tmp_path / "a.tif").pixels, COLOUR16)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR8).convert(mode)
    name = "a.jpg" if mode in {"CMYK", "YCbCr"} else "a.png"
    image.save(tmp_path / name)
    expected = Image.open(tmp_path / name).convert("L" if mode in {"1", "LA"} else "RGB")
    picture = only(tmp_path / name)
    assert picture.info.eight_bit
    assert_array_equal(picture.pixels, np.asarray(expected))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "deep.tif", "deep.png"])
def test_exif_orientation_is_applied_and_leads_back(tmp_path: Path, name: str, value: int) -> None:
    stored = Image.fromarray(GREY16 if "deep" in name else GREY8)
    exif = Image.Exif()
    exif[274] = value
    stored.save(tmp_path / name, exif=exif)
    if name == "a.jpg":
        stored = Image.fromarray(np.asarray(Image.open(tmp_path / name)))
    stored.getexif()[274] = value
    upright = np.asarray(ImageOps.exif_transpose(stored))
    picture = only(tmp_path / name)
    assert_array_equal(picture.pixels, upright)
    assert picture.orientation.undo(picture.pixels).shape == (12, 9)
    assert_array_equal(picture.orientation.undo(picture.pixels), np.asarray(stored))
    assert (picture.orientation == Orientation()) == (value == 1)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    Image.fromarray(GREY8).save(tmp_path / "a.tif", dpi=(200, 100))
    height, width = only(tmp_path / "a.tif").spacing
    assert height == pytest.approx(2 * width)
    Image.fromarray(GREY8).save(tmp_path / "b.tif", dpi=(100, 100))
    assert only(tmp_path / "b.tif").spacing == (1.0, 1.0)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp"])
def test_a_file_that_is_cut_short(tmp_path: Path, name: str) -> None:
    Image.fromarray(RNG.integers(0, 256, (80, 90), dtype=np.uint8)).save(tmp_path / name)
    cut(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=rf"cannot read '{tmp_path / name}': it is damaged"):
        only(tmp_path / name)


def test_files_without_a_picture_are_refused(tmp_path: Path) -> None:
    for name, content, reason in (
        ("a.png", b"", "the file is empty"),
        ("b.png", b"<html>", "not an image file of a known format"),
        ("c.tif", b"II*\0", "not an image file of a known format|it is damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImageError, match=reason) as raised:
            only(tmp_path / name)
        assert raised.value.path == tmp_path / name
    with pytest.raises(UnreadableImageError, match="there is no such file"):
        list_pictures(tmp_path / "d.png")


def test_pixels_without_content(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "equal.tif", np.full((4, 4), 7, np.uint16))
    with pytest.raises(UnreadableImageError, match=r"all pixels are equal \(7\)"):
        only(tmp_path / "equal.tif")
    tifffile.imwrite(tmp_path / "nan.tif", np.where(FLOAT > 0.5, np.nan, FLOAT).astype(np.float32))
    with pytest.raises(UnreadableImageError, match=r"% of the pixels are NaN or infinite"):
        only(tmp_path / "nan.tif")


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(UnreadableImageError, match=r"more pixels than|are more than"):
        only(tmp_path / "a.png")


def test_a_resolution_of_too_many_numbers(tmp_path: Path) -> None:
    """An error behind the decoding, in which no library names the file."""
    path = tmp_path / "float.tiff"
    tifffile.imwrite(path, np.arange(64, dtype=np.float32).reshape(8, 8), resolution=(2, 3))
    content = path.read_bytes()
    entry = struct.pack("<HHI", 282, 5, 1)  # tag, rational, one of them
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, struct.pack("<HHI", 282, 5, 2)))
    with pytest.raises(UnreadableImageError, match=r"float.tiff': it is damaged") as caught:
        [read_picture(info) for info in list_pictures(path)]
    assert caught.value.path == path
