"""Parts of the runner against references: torchvision's resize, other ways to walk, closed forms."""

import csv
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torchvision.transforms.v2.functional import resize as torch_resize

from anomalib_scrd.decision.calibrated_score import labels_and_outlines
from anomalib_scrd.edge.engine import load_engine
from anomalib_scrd.edge.heat import heat, opacities, outline, overlaid, regions
from anomalib_scrd.edge.pipeline import in_order
from anomalib_scrd.edge.records import COLUMNS, Record, as_cell
from anomalib_scrd.edge.resizing import resize
from anomalib_scrd.edge.sources import walk
from anomalib_scrd.imaging import list_files
from tests.conftest import ROOT
from tests.edge.conftest import build_onnx, build_openvino


@pytest.mark.parametrize("size", [(32, 32), (17, 50), (200, 130), (61, 75)])
@pytest.mark.parametrize("shape", [(61, 75), (61, 75, 3)])
def test_resize_is_torchvisions(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    planes = torch.from_numpy(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)
    expected = torch_resize(planes, list(size), antialias=True).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(resize(image, size).reshape(expected.shape), expected, atol=1e-5)


class TestImports:
    """Imports must not need torch and anomalib."""

    @pytest.mark.parametrize(
        "module", [*sorted(path.stem for path in (ROOT / "anomalib_scrd/edge").glob("[!_]*.py")), "__main__"]
    )
    def test_light(self, module: str) -> None:
        heavy = ["torch", "torchvision", "anomalib", "pandas", "lightning", "scipy", "sklearn", "matplotlib", "timm"]
        engines = ["openvino", "onnxruntime", "pydicom", "nibabel", "tifffile"]
        code = (
            f"import sys, anomalib_scrd.edge.{module}; "
            f"print([name for name in {heavy + engines} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", module

    def test_a_run_needs_no_more(self, xml_file: Path, images: Path, tmp_path: Path) -> None:
        """With packages unimportable that a wheel of the edge distribution lacks."""
        code = f"""
import sys
for name in ("torch", "torchvision", "anomalib", "pandas", "lightning", "scipy", "sklearn", "matplotlib", "timm"):
    sys.modules[name] = None
from anomalib_scrd.edge.__main__ import main
sys.exit(main([{str(xml_file)!r}, {str(images)!r}, "--output", {str(tmp_path / "results")!r}, "--maps", "tiff"]))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestWalk:
    def test_finds_what_the_list_finds(self, images: Path) -> None:
        for name in (".b.png", "c.txt", "d.PNG", "e.nii.gz", "f.part", "g.dcm", "h", "good/DICOMDIR"):
            (images / name).write_bytes(b"")
        for name in ("slice", "1.2.840.113619.2.55.3", "good/IM.0001", "i.dcm.part"):
            (images / name).write_bytes(b"\0" * 128 + b"DICM")
        found = [file.path for file in walk(images)]
        assert sorted(found) == list_files(images)
        assert {images / "slice", images / "1.2.840.113619.2.55.3", images / "good" / "IM.0001"} <= set(found)

    def test_leaves_hidden_folders_out(self, images: Path) -> None:
        (images / "good").rename(images / ".thumbnails")
        assert {file.relative.parts[0] for file in walk(images)} == {"spot"}

    def test_a_link_upwards_ends(self, images: Path) -> None:
        (images / "good" / "up").symlink_to(images)
        assert len(list(walk(images))) == 9

    def test_is_lazy(self, images: Path) -> None:
        files = walk(images)
        assert next(files).relative.as_posix() == "good/0.png"
        for path in (images / "spot" / "deep").iterdir():
            path.unlink()
        assert len(list(files)) == 5

    def test_one_file(self, images: Path) -> None:
        (file,) = walk(images / "good" / "0.png")
        assert file.relative.as_posix() == "0.png"


class TestInOrder:
    def test_results_come_in_the_order_of_the_items(self) -> None:
        def slow(item: int) -> int:
            time.sleep(0.02 if item % 3 == 0 else 0)
            return item * item

        assert list(in_order(slow, range(40), 4, 8)) == [(item, item * item) for item in range(40)]

    def test_no_more_than_asked_for_is_begun(self) -> None:
        begun = []
        lock = threading.Lock()

        def note(item: int) -> int:
            with lock:
                begun.append(item)
            return item

        for item, _ in in_order(note, range(100), 3, 5):
            assert max(begun) <= item + 5

    def test_a_pause_finishes_what_was_begun(self) -> None:
        taken = []

        def items():
            yield from (1, 2, 3)
            yield None
            assert taken == [1, 2, 3]
            yield 4

        for item, _ in in_order(lambda item: item, items(), 2, 9):
            taken.append(item)
        assert taken == [1, 2, 3, 4]

    def test_an_error_comes_in_its_place(self) -> None:
        def fail(item: int) -> int:
            if item == 2:
                raise OSError(28, "No space left on device")
            return item

        results = in_order(fail, range(5), 2, 4)
        assert [next(results), next(results)] == [(0, 0), (1, 1)]
        with pytest.raises(OSError, match="No space left"):
            next(results)


class TestHeat:
    def test_the_threshold_is_the_middle(self) -> None:
        strength = heat(np.array([[0.0, 0.3, 0.6, 9.0]]), threshold=0.3)
        np.testing.assert_allclose(strength, [[0, 0.5, 1, 1]])
        np.testing.assert_allclose(opacities(strength), [[0, 0.15, 0.75, 0.75]], rtol=1e-6)

    def test_a_low_map_leaves_the_picture_as_it_is(self) -> None:
        image = np.random.default_rng(0).random((5, 6), np.float32)
        result = overlaid(image, np.full((5, 6), 0.2))
        np.testing.assert_array_equal(result, np.repeat((image * 255).round().astype(np.uint8)[..., None], 3, -1))

    def test_outline(self) -> None:
        region = np.zeros((6, 6), bool)
        region[1:5, 2:6] = True
        expected = region.copy()
        expected[2:4, 3:6] = False  # the edge of the picture is not a border
        np.testing.assert_array_equal(outline(region), expected)

    @pytest.mark.parametrize("anomalous", [False, True])
    @pytest.mark.parametrize("threshold", [0.3, 2.0])
    def test_regions_are_those_of_the_training(self, threshold: float, anomalous: bool) -> None:
        maps = torch.rand(1, 7, 9, generator=torch.Generator().manual_seed(0))
        thresholds = torch.tensor(0.5), torch.tensor(threshold)
        _, masks = labels_and_outlines(torch.tensor([float(anomalous)]), maps, *thresholds)
        np.testing.assert_array_equal(regions(maps[0].numpy(), threshold, anomalous), masks[0].numpy())
        assert masks.any() == anomalous

    def test_regions_without_a_decision(self) -> None:
        anomaly_map = np.array([[0.2, 0.4]])
        np.testing.assert_array_equal(regions(anomaly_map, 0.3, None), [[False, True]])


def test_a_record_survives_both_ways() -> None:
    record = Record("a,\n\udcff", 3, 7, 0.123456789, True, 5, 6, 1, 2**62, "m", None, None)
    assert Record.from_json(record.to_json()) == record
    assert record.to_json().endswith("}\n")
    assert record.to_json().count("\n") == 1
    assert len(COLUMNS) == 11


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'"])
def test_a_name_is_no_formula_in_the_table(first: str) -> None:
    """The JSON line has the exact name; numbers are numbers."""
    record = Record(f"{first}cmd|' /C calc'!A0.png", score=-0.5, volume=f"{first}1")
    (row,) = csv.reader(io.StringIO(record.to_csv(), newline=""))
    cells = dict(zip(COLUMNS, row, strict=True))
    assert (cells["path"], cells["volume"]) == (f"'{record.path}", f"'{first}1")
    assert cells["score"] == "-0.5"
    assert Record.from_json(record.to_json()) == record
    assert as_cell("good/=1.png") == "good/=1.png"


def test_nothing_leaves_the_machine(xml_file: Path, images: Path, tmp_path: Path) -> None:
    """No connection, no other process: OpenVINO's telemetry would report every import."""
    words = [str(xml_file), str(images), "--output", str(tmp_path / "results"), "--overlays"]
    code = f"""
import sys
events = []
sys.addaudithook(lambda name, _: events.append(name))
from anomalib_scrd.edge.__main__ import main
assert main({words!r}) == 0
import time
time.sleep(0.3)
outside = ("socket.", "os.fork", "os.posix_spawn", "subprocess.", "urllib.")
print([name for name in events if name.startswith(outside)])
"""
    # It is silent in CI by itself, which it recognises by these.
    outside_of_ci = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=outside_of_ci)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("suffix", "name", "damaged"),
    [
        (".xml", b"pred_label", b"\xe5\xe2\x99d_label"),
        (".onnx", b"pred_label", b"\xe5\xe2\x99d_label"),
        (".onnx", b"batch", b"bat\xe3h"),  # of a dimension: read only where the shape is looked at
    ],
)
def test_errors_of_undecodable_names_contain_the_file(suffix: str, name: bytes, damaged: bytes, tmp_path: Path) -> None:
    """Damaged bytes: each engine's binding raises a UnicodeDecodeError, which names no file."""
    path = (build_openvino if suffix == ".xml" else build_onnx)(tmp_path / f"model{suffix}")
    content = path.read_bytes()
    assert content.count(name) >= 1
    path.write_bytes(content.replace(name, damaged))
    with pytest.raises(ValueError, match=rf"model\{suffix}'") as caught:
        load_engine(path, threads=1)
    assert not isinstance(caught.value, UnicodeDecodeError)


def test_a_file_that_fails_at_its_first_image_is_named(tmp_path: Path) -> None:
    """ONNX Runtime checks some attributes only when it computes."""
    path = build_onnx(tmp_path / "model.onnx")
    model = onnx.load(path)
    (axes,) = [entry for entry in model.graph.initializer if entry.name == "all"]
    axes.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2, 9], np.int64), "all"))
    path.write_bytes(model.SerializeToString())

    def first() -> None:
        request = load_engine(path, threads=1).request()
        request.put(np.zeros((16, 16), np.float32))
        request.start()
        request.result()

    with pytest.raises(ValueError, match=r"ONNX Runtime cannot (load|run) '.*model\.onnx'"):
        first()
