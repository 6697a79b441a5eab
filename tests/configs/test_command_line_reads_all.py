"""Every config is read by anomalib's own command line, by the command in its first line."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from anomalib.cli import AnomalibCLI
from jsonargparse import Namespace

from anomalib_scrd import ScaleAwareCRD

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TRAINED = [path for path in CONFIGS if path.parent.name != "benchmark"]


class Reader(AnomalibCLI):
    """anomalib's command line up to the point where it would build anything."""

    def __init__(self) -> None:
        super().__init__(["train", "--model", "ScaleAwareCRD"], run=False)

    def before_instantiate_classes(self) -> None:
        """Write nothing to the disk."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0]


def parse(reader: Reader, path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Namespace:
    """The parsed command in the first line of a config."""
    monkeypatch.chdir(ROOT)  # the commands are those of a user in the root of the repository
    words = shlex.split(first_line(path).removeprefix("# "))
    assert words[:2] == ["anomalib", "train"]
    return reader.parser.parse_args([*words[1:], *more]).train


def test_there_are_configs_of_every_kind() -> None:
    assert {path.parent.name for path in CONFIGS} == {"configs", "model", "data", "benchmark"}
    assert {path.stem for path in CONFIGS} >= {"quickstart", "default", "edge", "published", "folder"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_first_line_is_the_command_that_uses_it(path: Path) -> None:
    line = first_line(path)
    benchmark = "python -m anomalib_scrd.benchmark "
    assert line.startswith(("# anomalib train ", f"# {benchmark}", f"# ANOMALIB_SCRD_DATA=/path/to/data {benchmark}"))
    assert str(path.relative_to(ROOT)) in line


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_the_command_is_understood(path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(reader, path, monkeypatch)
    assert config.model.class_path.endswith("ScaleAwareCRD")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part, given in (content if path.stem == "quickstart" else {path.parent.name: content}).items():
        if part == "trainer":
            assert config.trainer.max_steps == given["max_steps"]
            continue
        read = config[part]
        assert read.class_path.endswith(given["class_path"])
        for name, value in given["init_args"].items():
            # the command may replace a placeholder of the file
            if f"--{part}.{name}" not in first_line(path) and not isinstance(value, dict):
                assert plain(read.init_args[name]) == plain(value), name


def plain(value: Any) -> Any:
    """Paths and enum members as they stand in a file."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(getattr(value, "value", value)).removeprefix("./")


def test_published_trains_as_long_as_the_paper(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(reader, ROOT / "configs/model/published.yaml", monkeypatch)
    assert (config.data.init_args.train_batch_size, config.trainer.max_steps) == (16, 40_000)
    assert config.data.init_args.name == "RSNA"


def test_published_builds_the_networks_of_the_paper() -> None:
    model = ScaleAwareCRD("published", pre_trained=False)
    assert model.input_size == (256, 256)
    anomalies = model.synthetic_anomalies
    assert anomalies._patches(anomalies.size)._sides(256) == (10, 31)
    assert (model.model.bottleneck.out_channels, model.model.bottleneck.stride) == (2048, 32)
    assert [len(stage.blocks) for stage in model.model.student.stages] == [3, 4, 6]
    assert model.model.teacher.channels == (256, 512, 1024)
