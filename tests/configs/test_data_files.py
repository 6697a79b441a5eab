"""Every data config starts with its command and builds its data module."""

from pathlib import Path

import pytest
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from jsonargparse import ArgumentParser, Namespace

import anomalib_scrd.data  # noqa: F401 - short class names are those of imported classes

FOLDER = Path(__file__).parents[2] / "configs/data"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


def parse(*arguments: str) -> tuple[ArgumentParser, Namespace]:
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    return parser, parser.parse_args(list(arguments))


def test_the_configs_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    sets = {"rsna", "vincxr", "braintumor", "lag", "isic2018", "camelyon16", "brats2021"}
    assert names == {"phantom", "folder", "medical", "normal_images", "bmad", "mvtecad"} | {
        f"medianomaly_{name}" for name in sets
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_a_module_that_does_not_validate_on_its_test_set(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# anomalib train --model ScaleAwareCRD --data configs/data/{path.name}")
    parser, config = parse("--data", str(path))
    module = parser.instantiate_classes(config).data
    assert isinstance(module, AnomalibDataModule)
    # Without a validation set, the images that the model holds out take its place.
    allowed = {ValSplitMode.NONE} if path.stem == "normal_images" else set()
    assert module.val_split_mode not in {ValSplitMode.SAME_AS_TEST, ValSplitMode.NONE} - allowed
    assert module.seed is not None


def test_arguments_on_the_command_line(tmp_path: Path) -> None:
    parser, config = parse("--data", "MedIAnomaly", "--data.name", "ISIC2018", "--data.root", str(tmp_path))
    module = parser.instantiate_classes(config).data
    assert (module.category, module.root) == ("ISIC2018_Task3", tmp_path)
    parser, config = parse("--data", str(FOLDER / "folder.yaml"), "--data.root", str(tmp_path))
    assert Path(parser.instantiate_classes(config).data.root) == tmp_path
    parser, config = parse("--data", "PhantomSlices", "--data.image_size", "[64, 96]", "--data.n_train", "3")
    assert (module := parser.instantiate_classes(config).data).spec.width == 96
    assert module.spec.n_train == 3
