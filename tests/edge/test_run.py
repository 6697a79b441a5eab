"""The command that scores a folder: outputs, resuming, refusals and exit status."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_scrd.edge.__main__ import main
from anomalib_scrd.edge.files import read_map
from anomalib_scrd.edge.journal import read_records
from tests.edge.conftest import FACTS, SIZE, build_onnx, build_openvino, save_grey

Run = Callable[..., int]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def run(images: Path, output: Path, xml_file: Path) -> Run:
    def run(*words: object, model: Path = xml_file, where: Path = images) -> int:
        return main([str(word) for word in (model, where, "--output", output, *words)])

    return run


def scores(output: Path) -> dict[str, float]:
    return {record.path: record.score for record in read_records(output)}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("hint", ["throughput", "latency"])
def test_scores(engine: str, hint: str, run: Run, onnx_file: Path, output: Path) -> None:
    """In the order of the files, with the model's known scores, as JSON lines and as CSV."""
    assert run("--engine", engine, "--hint", hint, model=onnx_file) == 0
    values = [20, 40, 60, 80, 100, 120, 200, 220, 240]
    names = [f"good/{index}.png" for index in range(6)] + [f"spot/deep/{index}.png" for index in range(3)]
    assert list(scores(output)) == names
    np.testing.assert_allclose(list(scores(output).values()), np.array(values) / 255, rtol=1e-6)
    lines = [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]
    assert [line["anomalous"] for line in lines] == [False] * 6 + [True] * 3
    with (output / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == names
    assert [float(row["score"]) for row in rows] == [line["score"] for line in lines]
    assert [row["anomalous"] for row in rows] == ["False"] * 6 + ["True"] * 3


def test_finished_files_are_skipped(run: Run, images: Path, output: Path) -> None:
    assert run() == 0
    before = (output / "scores.jsonl").read_bytes()
    save_grey(images / "good" / "new.png", 51)
    save_grey(images / "spot" / "deep" / "0.png", 250, (SIZE, SIZE + 1))  # another size in bytes
    assert run() == 0
    added = (output / "scores.jsonl").read_bytes().removeprefix(before).splitlines()
    assert [json.loads(line)["path"] for line in added] == ["good/new.png", "spot/deep/0.png"]
    assert scores(output)["good/new.png"] == pytest.approx(0.2)
    assert len(read_records(output)) == 10


def test_a_folder_without_images_is_no_success(
    run: Run, images: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless all are done; a watch waits for the first."""
    for path in images.rglob("*.png"):
        path.rename(path.with_suffix(".txt"))
    assert run() == 2
    assert f"error: IMAGES '{images}' has no image: no DICOM file, and no file named .dcm, " in capsys.readouterr().err
    assert not output.exists()
    for path in images.rglob("*.txt"):
        path.rename(path.with_suffix(".png"))
    assert run() == run() == 0


def test_results_without_requested_maps_are_scored_again(run: Run, output: Path) -> None:
    assert run() == 0
    assert run("--maps", "npz") == 0
    assert [record.map for record in read_records(output)][:1] == ["maps/good/0.png.npz"]
    length = (output / "scores.jsonl").stat().st_size
    assert run("--maps", "npz") == run() == 0
    assert (output / "scores.jsonl").stat().st_size == length


@pytest.mark.parametrize("name", ["maps/good/0.png.npz", "overlays/good/0.png.jpg"])
def test_deleted_maps_and_overlays_are_written_again(name: str, run: Run, output: Path) -> None:
    words = ("--maps", "npz", "--overlays")
    assert run(*words) == 0
    length = (output / "scores.jsonl").stat().st_size
    content = (output / name).read_bytes()
    (output / name).unlink()
    assert run() == 0  # they are not requested
    assert (output / "scores.jsonl").stat().st_size == length
    assert run(*words) == 0
    assert (output / name).read_bytes() == content
    with (output / "scores.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(read_records(output)) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "0.3"], "has results with threshold None and now 0.3"),
        (["--precision", "bf16"], "has results with precision 'f32' and now 'bf16'"),
    ],
)
def test_results_of_other_settings_are_not_mixed(
    words: list[str], message: str, run: Run, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    before = (output / "scores.jsonl").read_bytes()
    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert (output / "scores.jsonl").read_bytes() == before


class TestPlaceOfTheImages:
    """The same path below two folders is not the same file, even with equal size and time."""

    @pytest.mark.parametrize("salted", [False, True])
    def test_another_or_moved_folder_is_refused(
        self, salted: bool, run: Run, images: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("--salt", tmp_path / "salt") if salted else ()
        assert run(*words) == run(*words) == 0
        before = (output / "scores.jsonl").read_bytes()
        other = tmp_path / "Miller_Anna"
        images.rename(other)
        assert run(*words, where=other) == 2
        err = capsys.readouterr().err
        assert f"error: --output '{output}' has results of another folder of images, or of one that was moved" in err
        assert (output / "scores.jsonl").read_bytes() == before
        assert run("--maps", "npz", *words, where=other / "good" / "0.png") == 2
        text = (output / "run.json").read_text()
        assert "images" in json.loads(text)
        assert not any(part in text for part in (*images.parts[1:-1], "Miller"))

    def test_hash_of_a_path_cannot_be_looked_up(self, run: Run, images: Path, tmp_path: Path, xml_file: Path) -> None:
        stored = []
        for name in ("one", "two"):
            assert main([str(xml_file), str(images), "--output", str(tmp_path / name)]) == 0
            stored.append(json.loads((tmp_path / name / "run.json").read_text())["images"])
        assert stored[0] != stored[1]

    def test_spelling_does_not_matter(
        self, run: Run, images: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "link").symlink_to(images)
        assert run() == 0
        before = (output / "scores.jsonl").read_bytes()
        monkeypatch.chdir(images / "good")
        for path in ("..", "../good/..", tmp_path / "link", images / "spot" / ".."):
            assert run(where=Path(path)) == 0
        assert (output / "scores.jsonl").read_bytes() == before

    def test_files_of_a_folder_may_come_one_by_one(self, run: Run, images: Path, output: Path) -> None:
        assert run(where=images / "good" / "0.png") == run(where=images / "good" / "1.png") == 0
        assert run(where=images / "good") == 0
        assert len(read_records(output)) == 6


def test_results_of_another_model_are_not_mixed(
    run: Run, onnx_file: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert run(model=onnx_file) == 2
    assert f"error: --output '{output}' has results with model" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["npz", "tiff"])
def test_maps_lie_on_the_pixels_of_the_file(kind: str, run: Run, images: Path, output: Path) -> None:
    """Also where EXIF turns the picture, which viewers of the overlay follow."""
    turned = images / "good" / "turned.png"
    exif = Image.Exif()
    exif[274] = 6  # rows of the file are columns of the picture
    pixels = np.zeros((24, 40), np.uint8)
    pixels[2:6, 30:38] = 255
    Image.fromarray(pixels).save(turned, exif=exif)
    assert run("--maps", kind, "--overlays") == 0
    (record,) = [record for record in read_records(output) if record.path == "good/turned.png"]
    assert (record.height, record.width) == pixels.shape
    anomaly_map = read_map(output / record.map)
    assert anomaly_map.shape == pixels.shape
    assert anomaly_map.dtype == np.float32
    row, column = np.unravel_index(anomaly_map.argmax(), pixels.shape)
    assert pixels[row, column] == 255
    with Image.open(output / record.overlay) as overlay:
        assert overlay.size == (40, 24)
        assert overlay.getexif()[274] == 6
        colours = np.asarray(overlay.convert("RGB"), int)
    assert colours[3:5, 32:36].mean() > 3 * colours[:, :20].mean()
    if kind == "tiff":
        with Image.open(output / record.map) as shown:  # Pillow turns it as the tag says
            assert (shown.mode, shown.size) == ("F", (24, 40))


def test_deep_pictures_keep_their_depth(run: Run, images: Path, output: Path) -> None:
    """12 bits through the window of the model's file: a difference of 20 grey levels is there."""
    for name, value in (("low", 2000), ("high", 2020)):
        Image.fromarray(np.pad(np.full((2, 2), value, np.uint16), 7)).save(images / f"{name}.png")
    assert run() == 0
    found = scores(output)
    assert found["high.png"] - found["low.png"] == pytest.approx(20 / 4095, rel=1e-4)


def test_pages_of_a_file_are_pictures(run: Run, images: Path, output: Path) -> None:
    pages = [Image.fromarray(np.pad(np.full((2, 2), value, np.uint8), 7)) for value in range(10, 250, 10)]
    pages[0].save(images / "pages.tiff", save_all=True, append_images=pages[1:])
    assert run("--maps", "npz") == 0
    records = [record for record in read_records(output) if record.path == "pages.tiff"]
    assert [record.picture for record in records] == list(range(24))
    np.testing.assert_allclose([record.score for record in records], np.arange(10, 250, 10) / 255, rtol=1e-6)
    assert len({record.map for record in records}) == 24


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_model_of_any_size_without_metadata(
    engine: str, run: Run, images: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_grey(images / "wide.png", 100, (20, 30))
    assert run("--engine", engine, model=build_onnx(tmp_path / "any.onnx", None, "side")) == 0
    assert "8-bit images are passed at their own size" in capsys.readouterr().err
    assert scores(output)["wide.png"] == pytest.approx(100 / 255)


def test_a_fixed_size_without_metadata_is_resized_to(
    run: Run, images: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[0::2] = 200  # stripes as wide as a pixel: anti-aliasing leaves their mean
    Image.fromarray(pixels).save(images / "stripes.png")
    assert run(model=build_openvino(tmp_path / "fixed.xml", None)) == 0
    assert "8-bit images are passed resized to 16 x 16" in capsys.readouterr().err
    assert 100 / 255 <= scores(output)["stripes.png"] < 130 / 255


class TestBadFiles:
    @pytest.fixture(autouse=True)
    def bad(self, images: Path) -> None:
        whole = (images / "good" / "0.png").read_bytes()
        (images / "good" / "3b.png").write_bytes(whole[:-30])
        (images / "good" / "3c.png").write_bytes(b"")

    def test_stops_by_default_with_what_was_done(
        self, run: Run, output: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--threads", "1") == 3
        err = capsys.readouterr().err
        assert "left out: good/3b.png: it is damaged" in err
        assert "--on-error skip leaves it out" in err
        assert scores(output).keys() >= {"good/0.png", "good/3.png", "good/3b.png"}

    def test_skips_when_asked_to(self, run: Run, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--on-error", "skip") == 3
        failures = {record.path: record.error for record in read_records(output) if record.error}
        assert failures.keys() == {"good/3b.png", "good/3c.png"}
        assert failures["good/3c.png"] == "the file is empty"
        assert len(read_records(output)) == 11
        assert "9 pictures scored" in capsys.readouterr().err

    def test_are_tried_again_and_not_written_twice(self, run: Run, images: Path, output: Path) -> None:
        assert run("--on-error", "skip") == 3
        before = (output / "scores.jsonl").read_bytes()
        assert run("--on-error", "skip") == 3
        assert (output / "scores.jsonl").read_bytes() == before
        save_grey(images / "good" / "3b.png", 70)
        (images / "good" / "3c.png").unlink()
        assert run("--on-error", "skip") == 0
        assert scores(output)["good/3b.png"] == pytest.approx(70 / 255)


class TestExitStatus:
    def test_of_an_anomaly(self, run: Run) -> None:
        assert run("--fail-on", "anomalous") == 1
        assert run("--fail-on", "anomalous") == 1  # it does not depend on how often the run was started
        assert run() == 0

    def test_of_no_anomaly(self, run: Run, images: Path) -> None:
        assert run("--fail-on", "anomalous", where=images / "good") == 0

    def test_of_the_users_own_threshold(self, run: Run, images: Path) -> None:
        assert run("--fail-on", "anomalous", "--threshold", "0.4", where=images / "good") == 1

    def test_of_a_threshold_at_the_score(self, run: Run, images: Path, output: Path, tmp_path: Path) -> None:
        """The decision is that of the score in the results, which a report repeats, not of a threshold in float32."""
        assert run() == 0
        for path, score in scores(output).items():
            threshold, again = score - 1e-9, tmp_path / path
            assert np.float32(threshold) == np.float32(score)
            assert run("--threshold", repr(threshold), "--output", again, where=images / path) == 0
            (record,) = read_records(again)
            assert (record.score, record.anomalous) == (score, True)

    def test_of_a_file_that_cannot_be_read(self, run: Run, images: Path) -> None:
        (images / "bad.png").write_bytes(b"no image")
        assert run("--fail-on", "anomalous", "--on-error", "skip") == 3

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["missing.xml", "images"], "MODEL must be an existing .xml or .onnx file, got 'missing.xml'"),
            (["{xml}", "missing"], "IMAGES must be an existing folder or file, got 'missing'"),
            (["{xml}", "{images}", "--engine", "onnxruntime"], "engine onnxruntime reads .onnx files"),
            (["{xml}", "{images}", "--device", "NOPE"], "OpenVINO cannot load"),
            (["{text}", "{images}"], "OpenVINO cannot load"),
            (["{xml}", "{images}/good/0.png", "--watch"], "IMAGES must be an existing folder with --watch"),
            (
                ["{other}", "{images}"],
                "has the outputs ['x']; a model of this project has ['pred_score', 'anomaly_map']",
            ),
            (["{newer}", "{images}"], "has metadata of format 2; this version reads 1"),
            (["{damaged}", "{images}"], "is damaged"),
            (["{window}", "{images}"], "the window in the model's metadata is damaged"),
            (["{size}", "{images}"], "is damaged"),
        ],
    )
    def test_of_what_cannot_start(
        self,
        words: list[str],
        message: str,
        images: Path,
        output: Path,
        xml_file: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "text.xml").write_text("no model")
        places = {"xml": xml_file, "images": images, "text": tmp_path / "text.xml"}
        places["newer"] = build_onnx(tmp_path / "newer.onnx", FACTS | {"format": 2})
        places["damaged"] = build_onnx(tmp_path / "damaged.onnx", FACTS | {"input": 3})
        places["window"] = build_onnx(tmp_path / "window.onnx", FACTS | {"window": {"mode": "values", "limits": [1]}})
        places["size"] = build_onnx(tmp_path / "size.onnx", FACTS | {"input": {"height": -1, "width": 16}})
        places["other"] = _other(tmp_path / "other.onnx")
        assert main([word.format(**places) for word in words] + ["--output", str(output)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err
        assert not (output / "scores.csv").exists()

    def test_of_a_full_disk(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("anomalib_scrd.edge.scoring.write_map", full)
        assert run("--maps", "tiff") == 4
        assert "results cannot be written: [Errno 28] No space left on device" in capsys.readouterr().err


def test_two_processes_do_not_write_into_one_folder(run: Run, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fcntl = pytest.importorskip("fcntl")
    assert run() == 0
    with (output / "scores.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run() == 2
    assert "another process writes to --output" in capsys.readouterr().err


def test_results_among_the_images_are_not_scored(images: Path, xml_file: Path) -> None:
    for _ in range(2):
        assert main([str(xml_file), str(images), "--output", str(images / "results"), "--overlays"]) == 0
    assert len(read_records(images / "results")) == 9


def test_names_of_any_bytes(run: Run, images: Path, output: Path) -> None:
    save_grey(images / 'a "b", c\n.png', 51)
    try:
        (images / "0.png").write_bytes((images / "good" / "0.png").read_bytes())
        os.rename(images / "0.png", os.fsencode(images) + b"/\xff.png")  # noqa: PTH104 - no str
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert run() == 0
    names = [record.path for record in read_records(output)]
    assert names[:2] == ['a "b", c\n.png', "\udcff.png"]
    with (output / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == names


@pytest.mark.parametrize("words", [("--maps", "npz"), ("--overlays",)])
def test_a_name_that_no_map_can_have_ends_no_run(
    words: tuple[str, ...], run: Run, images: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a" * 249 + ".png"
    save_grey(images / long, 51)
    assert run(*words, "--on-error", "skip") == 3
    records = {record.path: record for record in read_records(output)}
    assert len(records) == 10
    assert records[long].error.startswith("its map or overlay cannot have a name made of the file's (File name too")
    assert f"left out: {long}: its map" in capsys.readouterr().err
    assert sum(record.score is not None for record in records.values()) == 9
    assert run() == 0  # a score needs no name
    assert scores(output)[long] == pytest.approx(0.2)


class TestSalt:
    def test_hides_names_everywhere(
        self, run: Run, images: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_grey(images / "Miller_Anna_19700101" / "scan.png", 80)
        (images / "Miller_Anna_19700101" / "cut.png").write_bytes(b"\x89PNG")
        words = ("--salt", tmp_path / "salt", "--maps", "tiff", "--overlays", "--on-error", "skip")
        assert run(*words) == 3
        printed = capsys.readouterr()
        written = [str(path.relative_to(output)).encode() for path in output.rglob("*")]
        written += [path.read_bytes() for path in output.rglob("*") if path.is_file()]
        for text in (printed.out.encode(), printed.err.encode(), *written):
            assert b"Miller" not in text
            assert b"scan" not in text
        assert len(read_records(output)) == 11
        assert len({record.path for record in read_records(output)}) == 11
        before = (output / "scores.jsonl").read_bytes()
        assert run(*words) == 3
        assert (output / "scores.jsonl").read_bytes() == before

    def test_names_are_found_again_with_it(
        self, run: Run, images: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--salt", tmp_path / "salt") == 0
        capsys.readouterr()
        assert main(["names", str(images), "--salt", str(tmp_path / "salt")]) == 0
        known = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
        found = {known[record.path]: record.score for record in read_records(output)}
        assert found["good/1.png"] == pytest.approx(40 / 255)
        assert main(["names", str(images), "--salt", str(tmp_path / "none")]) == 2

    def test_of_another_run(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--salt", tmp_path / "salt") == 0
        assert run("--salt", tmp_path / "other") == 2
        assert "has results with salt" in capsys.readouterr().err


def _other(path: Path) -> Path:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["input"], ["x"])
    shape = [1, 3, SIZE, SIZE]
    graph = helper.make_graph(
        [node], "other", [value("input", TensorProto.FLOAT, shape)], [value("x", TensorProto.FLOAT, shape)]
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
