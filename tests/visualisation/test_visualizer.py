"""Pictures with the decision, and the table of predictions."""

import csv
import errno
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_scrd import ScaleAwareCRD, atomic_files
from anomalib_scrd.visualisation import picture, visualizer
from anomalib_scrd.visualisation.frame import Frame
from anomalib_scrd.visualisation.picture import Prediction, draw
from anomalib_scrd.visualisation.table import Row, format_table, write_table
from anomalib_scrd.visualisation.visualizer import DecisionVisualizer
from tests.models import build_engine, build_model, build_quick_model

GREY = Image.new("RGB", (120, 80), (128, 128, 128))
WHOLE = Frame(0, 0, 120, 80)


def shown(prediction: Prediction, frame: Frame = WHOLE) -> np.ndarray:
    """The panel with the map, 256 pixels wide."""
    array = np.asarray(draw(GREY, prediction, frame)).astype(int)
    return array[44:215, 262:518]


def prediction(level: float, **fields: object) -> Prediction:
    label = level > 0.5
    return Prediction(level, 0.5, label, np.full((16, 16), level, np.float32), **fields)


def test_colours_of_normal_and_anomalous_maps() -> None:
    untouched = shown(prediction(0.0))
    assert np.ptp(untouched) == 0
    for level in (0.1, 0.25, 0.37):  # up to halfway between the median of normal images and the threshold
        assert np.abs(shown(prediction(level)) - untouched).max() <= 2
    below, above = shown(prediction(0.49)), shown(prediction(0.51))
    assert below[80, 100, 2] > below[80, 100, 0]  # blue below the threshold
    assert above[80, 100, 0] > above[80, 100, 2] + 50  # yellow to red above
    reds = [shown(prediction(level))[80, 100, 1] for level in (0.55, 0.7, 0.85)]
    assert reds[0] > reds[1] > reds[2]


def test_the_middle_of_the_colour_bar_is_the_threshold() -> None:
    bar = np.asarray(picture._colour_bar(201)).astype(int)[:, 8]
    assert (bar[97] != bar[104]).any()
    assert bar[104, 2] > bar[104, 0]
    assert bar[96, 0] > bar[96, 2]
    tick = np.asarray(picture._colour_bar(201))[100, 19]
    assert tick.tolist() == list(picture._INK)


def test_score_label_and_threshold_are_on_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    draw_text = picture.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        picture.ImageDraw.ImageDraw, "text", lambda s, at, text, **k: (texts.append(text), draw_text(s, at, text, **k))
    )
    draw(GREY, prediction(0.83), WHOLE)
    draw(GREY, prediction(0.21), WHOLE)
    draw(GREY, Prediction(17.3, None, None, np.zeros((8, 8), np.float32)), WHOLE)
    assert "anomalous: score 0.830, threshold 0.5" in texts
    assert "normal: score 0.210, threshold 0.5" in texts
    assert "score 17.3, no threshold" in texts


def test_a_map_is_shown_where_it_belongs() -> None:
    untouched = shown(prediction(0.0))
    inner = shown(prediction(0.9), Frame(30, 20, 90, 60))
    red = inner[..., 0] > inner[..., 2] + 60
    rows, columns = np.nonzero(red)
    assert (columns.min(), columns.max()) == pytest.approx((64, 191), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((43, 127), abs=2)
    outside = inner[2, 2]
    assert (outside < untouched[2, 2]).all()  # darker outside of the model's input


def test_outline_and_truth() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    with_both = draw(GREY, prediction(0.9, mask=mask, truth=mask), WHOLE)
    without = draw(GREY, prediction(0.9), WHOLE)
    assert with_both.width == without.width + 2 * 260
    none = np.asarray(draw(GREY, prediction(0.1, mask=np.zeros((16, 16), bool)), WHOLE)).astype(int)[44:215, :780]
    assert not (none[..., 0] > none[..., 1] + 60).any()


def test_images_keep_their_shape() -> None:
    tall = draw(Image.new("RGB", (50, 200)), prediction(0.3), Frame(0, 0, 50, 200))
    assert tall.height == 256 + 44
    assert tall.width == 2 * (64 + 4) + 46


@pytest.fixture
def trained(tiny_data: Callable, tmp_path: Path) -> Callable:
    def train(transform: object = None, **data: object) -> tuple:
        arguments = {} if transform is None else {"pre_processor": PreProcessor(transform)}
        model = build_quick_model(visualizer=True, **arguments)
        engine = build_engine(tmp_path / "results", max_steps=4)
        module = tiny_data(**data)
        engine.fit(model, datamodule=module)
        return model, engine, module

    return train


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predict_prints_a_table_and_writes_it_beside_the_pictures(
    trained: Callable, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    model, engine, _ = trained()
    capsys.readouterr()
    predictions = engine.predict(model, data_path=tiny_folder / "test")
    printed = capsys.readouterr().out
    folder = next((tmp_path / "results").rglob("predictions.csv")).parent
    rows = rows_of(folder / "predictions.csv")
    assert len(rows) == 12
    for batch in predictions:
        for path, score, label in zip(batch.image_path, batch.pred_score, batch.pred_label, strict=True):
            row = next(row for row in rows if row["file"] == path)
            assert float(row["score"]) == score.item()
            word = "anomalous" if label else "normal"
            assert row["label"] == word
            assert re.search(rf"{score.item():.4f}\s+{word}\s+{re.escape(path)}", printed)
            assert Image.open(row["picture"]).size[0] > 500
            assert folder in Path(row["picture"]).parents
    assert len({row["picture"] for row in rows}) == 12


def test_a_test_writes_pictures_and_table_with_the_truth(trained: Callable, tmp_path: Path) -> None:
    model, engine, data = trained()
    engine.test(model, datamodule=data)
    rows = rows_of(next((tmp_path / "results").rglob("predictions.csv")))
    assert {(Path(row["file"]).parent.name, row["truth"]) for row in rows} == {
        ("good", "normal"),
        ("spot", "anomalous"),
    }


def test_names_that_differ_in_their_ending_have_pictures_of_their_own(
    trained: Callable, tmp_path: Path, tiny_folder: Path
) -> None:
    model, engine, _ = trained()
    images = tmp_path / "images"
    images.mkdir()
    source = Image.open(tiny_folder / "test/good/000.png")
    for name in ("a.png", "a.bmp", "a.jpg"):
        source.save(images / name)
    engine.predict(model, data_path=images)
    rows = rows_of(next((tmp_path / "results").rglob("predictions.csv")))
    assert len({row["picture"] for row in rows}) == 3
    assert all(Path(row["picture"]).is_file() for row in rows)


@pytest.mark.parametrize("shape", ["crop", "wide"])
def test_the_map_of_a_cropped_or_stretched_input_lies_on_the_defect(
    shape: str, trained: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalise = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    steps = {"crop": [Resize((96, 96)), CenterCrop(64)], "wide": [Resize((64, 96))]}[shape]
    model, engine, data = trained(Compose([*steps, normalise]))
    frames = []
    monkeypatch.setattr(visualizer, "draw", lambda image, _p, frame, _s: (frames.append(frame), image)[1])
    engine.test(model, datamodule=data)
    expected = {"crop": (64 / 6, 64 / 6, 64 * 5 / 6, 64 * 5 / 6), "wide": (0, 0, 64, 64)}[shape]
    assert len(frames) == 12
    assert all(frame == pytest.approx(expected, abs=0.5) for frame in frames)


def test_a_full_disk_stops_the_pictures_and_nothing_else(
    trained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, engine, data = trained()
    engine.test(model, datamodule=data)
    first = next((tmp_path / "results").rglob("images/**/000.png"))
    before = first.read_bytes()
    written = []

    def full(self: Image.Image, path: Path, **_: object) -> None:
        written.append(path)
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(visualizer, "write_table", lambda _rows, path: full(None, tmp_path / f"{path.name}.part"))
    results = engine.test(model, datamodule=data)[0]
    assert 0 <= results["image_AUROC"] <= 1
    assert len(written) == 2  # one picture, the table
    assert "no space is left; the earlier file of this name is unchanged" in caplog.text
    assert first.read_bytes() == before
    assert not list((tmp_path / "results").rglob("*.part"))


def test_files_appear_when_they_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    with atomic_files.replacing(path) as part:
        part.write_text("first")
        assert not path.exists()

    def fail(error: Exception) -> None:
        with atomic_files.replacing(path, "report") as part:
            part.write_text("half")
            raise error

    full = RuntimeError("torch's")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"the report '.*file.txt' could not be written: no space is left; the earlier"):
        fail(full)
    with pytest.raises(ValueError, match="other"):
        fail(ValueError("other"))
    unrelated = ValueError("bad image")
    unrelated.__context__ = OSError(errno.ENOENT, "No such file")  # that was handled before
    with pytest.raises(ValueError, match="bad image"):
        fail(unrelated)
    assert path.read_text() == "first"
    assert [child.name for child in path.parent.iterdir()] == ["file.txt"]


def test_many_rows_are_cut_to_the_highest_scores(tmp_path: Path) -> None:
    rows = [Row(f"{index}.png", index / 100, "normal") for index in range(100)]
    text = format_table(rows).splitlines()
    assert len(text) == 42
    assert text[1].endswith("99.png")
    assert text[-1].endswith("the 60 images with lower scores are in the CSV file")
    write_table(rows, tmp_path / "table.csv")
    assert len(rows_of(tmp_path / "table.csv")) == 100


def test_items_and_batches_of_torch_and_numpy(tiny_folder: Path) -> None:
    item = ImageItem(
        image=torch.rand(3, 64, 64),
        image_path=str(tiny_folder / "test/spot/000.png"),
        anomaly_map=torch.rand(64, 64),
        pred_mask=torch.rand(64, 64) > 0.5,
        pred_score=torch.tensor(0.7),
        pred_label=torch.tensor(True),
    )
    expected = np.asarray(DecisionVisualizer()(item))
    assert np.array_equal(np.asarray(DecisionVisualizer()(item.to_numpy())), expected)
    batch = ImageBatch.collate([item, item])
    assert len(DecisionVisualizer()(batch)) == 2
    assert np.array_equal(np.asarray(DecisionVisualizer()(ImageBatch.collate([item]))), expected)


def test_images_that_pillow_cannot_show_are_drawn_from_the_input(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)).save(path)
    item = ImageItem(
        image=torch.linspace(-2, 2, 3 * 64 * 64).reshape(3, 64, 64),
        image_path=str(path),
        anomaly_map=torch.zeros(64, 64),
        pred_score=torch.tensor(0.1),
        pred_label=torch.tensor(False),
    )
    panel = np.asarray(DecisionVisualizer()(item))[44:300, 2:258]
    assert np.ptp(panel.astype(int)) > 60  # Pillow converts 16 bits to white


@pytest.mark.parametrize("size", [8, 12.5, "x", True])
def test_a_size_out_of_range_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="size must be a whole number of pixels, at least 32, got"):
        DecisionVisualizer(size=size)


def test_it_is_the_models_default() -> None:
    assert isinstance(ScaleAwareCRD.configure_visualizer(), DecisionVisualizer)


def test_images_without_a_path_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, drawn = build_model(), DecisionVisualizer(tmp_path)
    engine = build_engine(tmp_path)
    engine._setup_trainer(model)
    drawn._begin(engine.trainer)
    monkeypatch.setattr(visualizer, "_read_with", lambda *_: None)
    item = ImageItem(image=torch.rand(3, 8, 8), anomaly_map=torch.rand(8, 8), pred_score=torch.tensor(0.5))
    for number in range(2):
        batch = ImageBatch.collate([item, item])
        drawn.on_test_batch_end(engine.trainer, model, batch, batch, number)
    assert [row.file for row in drawn._rows] == [f"image_{number:06d}" for number in range(4)]
    assert len({row.picture for row in drawn._rows}) == 4
