"""The examples run unchanged, and give Lightning's scores."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from PIL import Image

from anomalib_scrd import PhantomSlices
from tests.export.conftest import Exported, Trained, engine

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGE = (200, 168)
# One process for several scripts: its imports take longer than they do.
DRIVER = """
import json, runpy, sys
for name, script, *arguments in json.loads(sys.argv[1]):
    print(f"=== {name}", flush=True)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
"""


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def large_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices three times as large as the model's input, with the fine grain that anti-aliasing takes away."""
    root = tmp_path_factory.mktemp("large") / "drawn"
    counts = dict.fromkeys(("n_train", "n_val_good", "n_val_lesions", "n_test_good"), 1)
    PhantomSlices(root=root, image_size=LARGE, n_test_lesions=6, **counts).prepare_data()
    return root / "test/large"


def own_images(folder: Path, **counts: int) -> Path:
    """A folder as own_data.py takes it."""
    generator = np.random.default_rng(0)
    for kind, count in counts.items():
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (48, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def printed(
    edge: Trained,
    edge_export: Exported,
    odd: Trained,
    odd_export: Exported,
    large_images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, str]]:
    """Folder that the scripts ran in, and what each printed."""
    folder = tmp_path_factory.mktemp("examples")
    commands = [
        ("memory", "predict_openvino.py", edge_export.openvino, large_images, "memory"),
        # a relative path, as in the README
        ("checkpoint", "predict_openvino.py", odd_export.openvino, os.path.relpath(large_images, folder), "checkpoint"),
        ("predict", "predict.py", edge.checkpoint, large_images),
        ("export", "export.py", odd.checkpoint, "exported"),
        ("check", "check_export.py", edge.checkpoint, edge_export.openvino, large_images),
        ("folders", "predict_openvino.py", edge_export.openvino, large_images.parent, "folders"),
        ("own", "own_data.py", own_images(folder / "mine", normal=12, defect=4), "1"),
        ("own normal", "own_data.py", own_images(folder / "normal_only", normal=12), "1"),
        ("train", "train.py", "2"),
    ]
    arguments = [[name, str(EXAMPLES / script), *map(str, others)] for name, script, *others in commands]
    text = run(["-c", DRIVER, json.dumps(arguments)], folder)
    parts = (part.partition("\n") for part in text.split("=== ")[1:])
    return folder, {name: rest for name, _, rest in parts}


def scores(text: str) -> dict[str, float]:
    """Score of each file name in lines that begin with a score and end with a path."""
    found = re.findall(r"^(\d\.\d{4}) .*?([^/\\ ]+\.png)$", text, flags=re.MULTILINE)
    return {name: float(score) for score, name in found}


def lightning_scores(trained: Trained, images: Path, folder: Path) -> dict[str, float]:
    batches = engine(folder).predict(trained.model, data_path=images)
    return {
        Path(path).name: score
        for batch in batches
        for path, score in zip(batch.image_path, batch.pred_score.tolist(), strict=True)
    }


def assert_equal(first: dict[str, float], second: dict[str, float]) -> None:
    assert set(first) == set(second)
    assert first == pytest.approx(second, abs=1e-3)


def test_openvino_scores_of_large_images_are_lightnings(
    printed: tuple[Path, dict[str, str]], edge: Trained, large_images: Path, tmp_path: Path
) -> None:
    _, texts = printed
    expected = lightning_scores(edge, large_images, tmp_path)
    assert len(expected) == 6
    assert_equal(scores(texts["memory"]), expected)


def test_openvino_model_from_a_checkpoint_takes_large_images(
    printed: tuple[Path, dict[str, str]], odd: Trained, large_images: Path, tmp_path: Path
) -> None:
    _, texts = printed
    assert_equal(scores(texts["checkpoint"]), lightning_scores(odd, large_images, tmp_path))


def test_heat_maps_have_the_size_of_their_images(printed: tuple[Path, dict[str, str]], large_images: Path) -> None:
    folder, _ = printed
    for part in ("memory", "checkpoint"):
        maps = sorted((folder / part).glob("*.png"))
        assert [path.name for path in maps] == sorted(path.name for path in large_images.iterdir())
        for path in maps:
            heat, original = (Image.open(file).convert("RGB") for file in (path, large_images / path.name))
            assert heat.size == original.size
            assert np.ptp(np.asarray(heat, dtype=float) - np.asarray(original), axis=2).max() > 20  # coloured


def test_predict_prints_lightnings_scores(
    printed: tuple[Path, dict[str, str]], edge: Trained, large_images: Path, tmp_path: Path
) -> None:
    _, texts = printed
    expected = lightning_scores(edge, large_images, tmp_path)
    assert_equal(scores(texts["predict"]), expected)
    labels = dict(re.findall(r"(anomalous|normal) .*?([^/\\ ]+\.png)$", texts["predict"], flags=re.MULTILINE))
    assert {name: label for label, name in labels.items()}.keys() <= expected.keys()
    for score, label in re.findall(r"^(\d\.\d{4})  (anomalous|normal) ", texts["predict"], flags=re.MULTILINE):
        assert (label == "anomalous") == (float(score) > 0.5)


def test_export_writes_a_model_for_any_size(printed: tuple[Path, dict[str, str]], odd: Trained) -> None:
    folder, texts = printed
    (path,) = re.findall(r"OpenVINO: (.*\.xml)", texts["export"])
    model = openvino.Core().compile_model(folder / path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shape = model.input(0).partial_shape
    assert [axis.is_dynamic for axis in shape] == [True, False, True, True]
    expected = odd.predict(odd.images).pred_score.numpy()
    np.testing.assert_allclose(model(odd.images.numpy())["pred_score"], expected, rtol=1e-4, atol=1e-5)


def test_check_compares_the_scores(printed: tuple[Path, dict[str, str]]) -> None:
    _, texts = printed
    (difference,) = re.findall(r"largest difference of 6 scores: (.*)", texts["check"])
    assert float(difference) < 1e-4


def test_images_of_one_name_in_two_folders_have_two_heat_maps(
    printed: tuple[Path, dict[str, str]], large_images: Path
) -> None:
    folder, _ = printed
    images = {path.relative_to(large_images.parent) for path in large_images.parent.rglob("*.png")}
    assert len({path.name for path in images}) < len(images)
    assert {path.relative_to(folder / "folders") for path in (folder / "folders").rglob("*.png")} == images


@pytest.mark.parametrize("name", ["own", "own normal"])
def test_own_data_trains(name: str, printed: tuple[Path, dict[str, str]]) -> None:
    folder, texts = printed
    assert ("image_AUROC" in texts[name]) == (name == "own")
    (checkpoint,) = re.findall(r"checkpoint: (.*\.ckpt)", texts[name])
    assert torch.load(folder / checkpoint, weights_only=True)["global_step"] == 1


def test_train_trains(printed: tuple[Path, dict[str, str]]) -> None:
    folder, texts = printed
    assert "image_AUROC" in texts["train"]
    (checkpoint,) = re.findall(r"checkpoint: (.*\.ckpt)", texts["train"])
    assert torch.load(folder / checkpoint, weights_only=True)["global_step"] == 2
