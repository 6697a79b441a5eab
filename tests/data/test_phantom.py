"""The drawn slices and their data module."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import TaskType
from anomalib.data.utils import ValSplitMode
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.data import PhantomSlices, phantom_files
from anomalib_scrd.data.phantom_drawing import LESION_SIZES, draw_slices, sample_anatomy, sample_lesions
from anomalib_scrd.data.phantom_files import PARAMETERS_FILE, PhantomSpec, is_drawn, write_phantoms

SMALL = {"image_size": 48, "n_train": 5, "n_val_good": 2, "n_val_lesions": 2, "n_test_good": 3, "n_test_lesions": 2}


def module(root: Path, **arguments: object) -> PhantomSlices:
    return PhantomSlices(**{"root": root / "drawn", **SMALL, **arguments})


def pixels(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): Image.open(path).tobytes() for path in sorted(root.rglob("*.png"))}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (75, 50), (61, 127)])
def test_any_size_is_drawn_and_every_lesion_has_a_mask(size: tuple[int, int]) -> None:
    for kind in LESION_SIZES:
        source = generator(1)
        anatomy, lesions = sample_anatomy(16, source), sample_lesions(16, kind, source)
        image, mask = draw_slices(anatomy, *size, source, lesions)
        assert image.shape == mask.shape == (16, *size)
        assert image.isfinite().all()
        assert image.min() >= 0
        assert image.max() <= 1
        assert mask.flatten(1).any(dim=1).all()


def test_lesions_have_three_sizes_that_do_not_overlap_in_the_mean() -> None:
    areas = {}
    for kind in LESION_SIZES:
        source = generator(2)
        _, mask = draw_slices(sample_anatomy(64, source), 128, 128, source, sample_lesions(64, kind, source))
        areas[kind] = mask.flatten(1).sum(dim=1).float()
    assert areas["small"].max() < areas["medium"].mean() < areas["large"].min()
    for kind, (low, high) in LESION_SIZES.items():
        mean_radius = (areas[kind].mean() / np.pi).sqrt() / 64  # in units of half the image side
        assert low * 0.8 < mean_radius < high * 1.2


def test_a_lesion_changes_the_image_inside_its_mask_and_nowhere_far_from_it() -> None:
    source = generator(3)
    anatomy, lesions = sample_anatomy(32, source), sample_lesions(32, "medium", source)
    healthy, nothing = draw_slices(anatomy, 96, 96, generator(9))
    ill, mask = draw_slices(anatomy, 96, 96, generator(9), lesions)
    change = (ill - healthy).abs()
    far = F.max_pool2d(mask[:, None].float(), 21, 1, 10)[:, 0] == 0  # 10 pixels and more from the mask
    assert not nothing.any()
    assert change[far].max() < 0.02
    inside = torch.stack([c[m].mean() for c, m in zip(change, mask, strict=True)])
    assert inside.min() > 0.04  # visible
    assert inside.mean() < 0.35  # and no white blot
    signs = torch.stack([(i - h)[m].mean() for i, h, m in zip(ill, healthy, mask, strict=True)])
    assert (signs > 0).any()
    assert (signs < 0).any()


def test_another_size_shows_the_same_heads() -> None:
    source = generator(4)
    anatomy, lesions = sample_anatomy(8, source), sample_lesions(8, "large", source)
    fine, fine_mask = draw_slices(anatomy, 192, 192, generator(), lesions)
    coarse, coarse_mask = draw_slices(anatomy, 96, 96, generator(), lesions)
    # Pooling also averages the noise and the borders.
    assert (F.avg_pool2d(fine[:, None], 2)[:, 0] - coarse).abs().mean() < 0.02
    assert (coarse - coarse.roll(1, 0)).abs().mean() > 0.08
    agreement = (F.avg_pool2d(fine_mask[:, None].float(), 2)[:, 0] > 0.5) == coarse_mask
    assert agreement.float().mean() > 0.99


def test_heads_differ_and_leave_the_corners_dark() -> None:
    image, _ = draw_slices(sample_anatomy(32, generator(5)), 64, 64, generator())
    assert (image[:, None] - image[None]).abs().mean(dim=(2, 3)).add(torch.eye(32)).min() > 0.02
    corners = torch.stack([image[:, y, x] for y in (0, -1) for x in (0, -1)])
    assert corners.max() < 0.15
    assert image[:, 24:40, 24:40].mean() > 0.3


def test_unknown_kind_of_lesion() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of \['small', 'medium', 'large'\], got 'huge'"):
        sample_lesions(1, "huge", generator())


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_are_grey_pngs_in_the_folder_layout(tmp_path: Path) -> None:
    module(tmp_path, image_size=(40, 56)).prepare_data()
    counts = {}
    for path in (tmp_path / "drawn").rglob("*.png"):
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (56, 40))
            if "ground_truth" in str(path.relative_to(tmp_path)):
                assert set(np.unique(np.asarray(image))) == {0, 255}
        folder = path.parent.relative_to(tmp_path / "drawn").as_posix()
        counts[folder] = counts.get(folder, 0) + 1
    kinds = ("small", "medium", "large")
    assert counts == (
        {"train/good": 5, "valid/good": 2, "test/good": 3}
        | {f"{part}/{kind}": 2 for part in ("valid", "test", "ground_truth", "valid_ground_truth") for kind in kinds}
    )


def test_a_seed_means_the_same_files_in_another_process(tmp_path: Path) -> None:
    module(tmp_path, seed=7).prepare_data()
    arguments = {"root": str(tmp_path / "other"), **SMALL, "seed": 7}
    code = f"from anomalib_scrd.data import PhantomSlices; PhantomSlices(**{arguments!r}).prepare_data()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    drawn = pixels(tmp_path / "drawn")
    assert drawn == pixels(tmp_path / "other")
    assert len(set(drawn.values())) == len(drawn)  # no head appears twice in all folders


def test_more_slices_leave_the_earlier_ones_alone_and_another_seed_none(tmp_path: Path) -> None:
    for name, arguments in (("few", {}), ("more", {"n_train": 19}), ("other", {"seed": 1})):
        PhantomSlices(**{"root": tmp_path / name, **SMALL, **arguments}).prepare_data()
    few, more, other = (pixels(tmp_path / name) for name in ("few", "more", "other"))
    assert all(more[name] == content for name, content in few.items())
    assert all(other[name] != content for name, content in few.items())


def test_drawn_once_and_again_when_something_differs(tmp_path: Path) -> None:
    data = module(tmp_path)
    data.prepare_data()
    parameters = tmp_path / "drawn" / PARAMETERS_FILE
    first = parameters.stat().st_mtime_ns
    data.prepare_data()
    module(tmp_path).prepare_data()
    assert parameters.stat().st_mtime_ns == first
    module(tmp_path, n_train=6).prepare_data()
    assert json.loads(parameters.read_text())["n_train"] == 6
    assert len(list((tmp_path / "drawn/train/good").iterdir())) == 6
    (tmp_path / "drawn/test/small/00001.png").unlink()
    module(tmp_path, n_train=6).prepare_data()
    assert (tmp_path / "drawn/test/small/00001.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]  # nothing else is left


def test_an_interrupted_drawing_leaves_nothing_or_the_old_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunk = phantom_files._chunk

    def interrupted(spec: PhantomSpec, kind: str | None, stream: int, first: int) -> object:
        if stream == 21:
            raise KeyboardInterrupt
        return chunk(spec, kind, stream, first)

    module(tmp_path).prepare_data()
    before = pixels(tmp_path / "drawn")
    monkeypatch.setattr(phantom_files, "_chunk", interrupted)
    for name, arguments in (("drawn", {"seed": 1}), ("new", {})):
        with pytest.raises(KeyboardInterrupt):
            PhantomSlices(**{"root": tmp_path / name, **SMALL, **arguments}).prepare_data()
    assert pixels(tmp_path / "drawn") == before
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]


def test_a_second_process_that_was_faster_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, root = module(tmp_path).spec, tmp_path / "drawn"
    draw = phantom_files._draw_into

    def slowly(folder: Path, spec: PhantomSpec) -> None:
        draw(folder, spec)
        monkeypatch.setattr(phantom_files, "_draw_into", draw)
        write_phantoms(root, spec)

    monkeypatch.setattr(phantom_files, "_draw_into", slowly)
    write_phantoms(root, spec)
    assert is_drawn(root, spec)
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "drawn/train/good/mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"root .*drawn' exists and was not drawn by PhantomSlices"):
        module(tmp_path).prepare_data()
    assert mine.read_bytes() == b"precious"


def test_an_empty_folder_and_a_link_are_fine(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "drawn").symlink_to(tmp_path / "target")
    module(tmp_path).prepare_data()
    assert (tmp_path / "drawn").is_symlink()
    assert (tmp_path / "target" / PARAMETERS_FILE).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 16}, r"image_size \(height\) must be an integer of at least 32, got 16"),
        ({"image_size": (64, 31)}, r"image_size \(width\) must be an integer of at least 32, got 31"),
        ({"n_train": 0}, "n_train must be an integer of at least 1, got 0"),
        ({"n_test_lesions": 0}, "n_test_lesions must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"val_split_mode": "test"}, "'test' is not a valid ValSplitMode"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **arguments)


# --- data module ------------------------------------------------------------------------------------------------------


def test_splits_and_masks(tmp_path: Path) -> None:
    data = module(tmp_path)
    data.prepare_data()
    data.setup()
    assert (data.name, data.category, data.task) == ("PhantomSlices", "", TaskType.SEGMENTATION)
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (5, 8, 9)
    paths = [set(part.samples.image_path) for part in (data.train_data, data.val_data, data.test_data)]
    assert len(set.union(*paths)) == sum(map(len, paths))
    for dataset, folder in ((data.val_data, "valid"), (data.test_data, "test")):
        for item in dataset:
            assert item.image.shape == (3, 48, 48)
            split, kind, name = Path(item.image_path).parts[-3:]
            assert split == folder
            assert bool(item.gt_label) == (kind != "good") == bool(item.gt_mask.any())
            if kind != "good":
                assert Path(item.mask_path).parts[-2:] == (kind, name)


def test_setup_draws_for_callers_that_skip_prepare_data(tmp_path: Path) -> None:
    data = module(tmp_path, val_split_mode="none")
    data.setup(TrainerFn.FITTING)
    assert len(data.train_data) == 5
    assert not hasattr(data, "val_data")


def test_other_validation_modes(tmp_path: Path) -> None:
    assert module(tmp_path).val_split_mode == ValSplitMode.FROM_DIR
    data = module(tmp_path, val_split_mode="synthetic", val_split_ratio=0.4)
    data.setup()
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (3, 2, 9)
    assert sorted(data.val_data.samples.label_index) == [0, 1]
    data = module(tmp_path, val_split_mode="same_as_test")
    data.setup()
    assert len(data.val_data) == 9


def test_it_says_once_that_the_data_is_synthetic(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(tmp_path)
    with caplog.at_level(logging.WARNING):
        data.prepare_data()
        data.prepare_data()
        data.setup()
    assert caplog.text.count("the images are drawn, not measured") == 1
    assert "only show that the installation works" in caplog.text
