"""`MedicalFolder`: inputs of the model, patients in the splits, stored settings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder, get_datamodule
from anomalib.engine import Engine
from jsonargparse import ArgumentParser
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, Resize

from anomalib_scrd import MedicalFolder, ScaleAwareCRD
from anomalib_scrd.data.medical_table import pair_masks
from anomalib_scrd.imaging import UnreadableImageError
from tests.imaging.writing import IDENTIFYING, write_dicom

nibabel = pytest.importorskip("nibabel")


def grey(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """A smooth 12-bit picture with noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 6, height)[:, None], np.linspace(0, 5, width)
    smooth = np.sin(rows + rng.uniform(0, 3)) * np.cos(columns + rng.uniform(0, 3))
    return (2000 + 1500 * smooth + rng.normal(0, 60, (height, width))).clip(0, 4095).astype(np.uint16)


def write_as(kind: str, path: Path, pixels: np.ndarray, **elements: object) -> Path:
    """Write a picture in one of several equivalent formats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "png":
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    twelve = {"BitsStored": 12, "HighBit": 11, **elements}
    path = path.with_suffix(".dcm")
    if kind == "monochrome1":
        return write_dicom(path, 4095 - pixels, PhotometricInterpretation="MONOCHROME1", **twelve)
    if kind == "modality":
        return write_dicom(path, pixels + np.uint16(24), RescaleSlope=1, RescaleIntercept=-24, **twelve)
    if kind == "turned":
        turned = np.ascontiguousarray(pixels.T[::-1])
        return write_dicom(path, turned, ImageOrientationPatient=[0, 1, 0, -1, 0, 0], **twelve)
    return write_dicom(path, pixels, WindowCenter=[40, 600], WindowWidth=[400, 1500], **twelve)


KINDS = ("png", "dicom", "monochrome1", "modality", "turned")


def write_set(root: Path, kind: Callable[[int], str], patient: Callable[[str, int], str] = "{}{}".format) -> Path:
    """12 normal and 6 anomalous pictures of differing sizes."""
    for part, count in (("normal", 12), ("bad", 6)):
        for index in range(count):
            pixels = grey(100 * (part == "bad") + index, 48 + 4 * (index % 3), 40)
            if part == "bad":
                pixels[20:32, 10:22] //= 3
            write_as(kind(index), root / part / f"{index:02d}", pixels, PatientID=patient(part, index))
    return root


def module(root: Path, **arguments: object) -> MedicalFolder:
    defaults: dict = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0, "seed": 0, "root": root}
    return MedicalFolder("mine", "normal", **({"abnormal_dir": "bad"} | defaults | arguments))


def small_model(size: tuple[int, int] = (32, 32), *, visualizer: bool = False, **arguments: object) -> ScaleAwareCRD:
    torch.manual_seed(0)
    return ScaleAwareCRD(
        backbone="resnet18",
        layers=["layer1", "layer2"],
        pre_trained=False,
        student={"depth": 1},
        visualizer=visualizer,
        pre_processor=ScaleAwareCRD.configure_pre_processor(size),
        **arguments,
    )


def engine(root: Path, **arguments: object) -> Engine:
    defaults: dict = {"max_steps": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=root / "results", **(defaults | arguments))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", lambda index: KINDS[index % len(KINDS)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScaleAwareCRD, Path, Path]:
    """A model trained on DICOM files, its checkpoint, and the images."""
    root = tmp_path_factory.mktemp("trained")
    images = write_set(root / "set", lambda index: KINDS[1 + index % 4])
    model, runner = small_model(), engine(root)
    runner.fit(model, datamodule=module(images))
    return model, Path(runner.trainer.checkpoint_callback.best_model_path), images


def items(data: MedicalFolder, part: str = "train") -> dict[str, torch.Tensor]:
    data.setup()
    dataset = getattr(data, f"{part}_data")
    return {Path(dataset[index].image_path).stem: dataset[index].image for index in range(len(dataset))}


def test_training_on_dicom_and_on_16_bit_png_gives_the_same_scores(tmp_path: Path) -> None:
    """The same images are held out, and window and weights are the same."""
    scores = {}
    for kind in ("dicom", "png"):
        root = tmp_path / kind
        write_set(root, lambda index, kind=kind: kind if kind == "png" else KINDS[1 + index % 4])
        rows = [
            f"{part}/{index:02d}.png,{part}{index}" for part, n in (("normal", 12), ("bad", 6)) for index in range(n)
        ]
        (root / "patients.csv").write_text("\n".join(["file,patient", *rows]), encoding="utf-8")
        patients = {"csv": str(root / "patients.csv")} if kind == "png" else "dicom"
        data, model = module(root, patients=patients), small_model(seed=0)
        runner = engine(tmp_path / f"results_{kind}", max_steps=4)
        runner.fit(model, datamodule=data)
        assert len(model.held_out) > 0
        batches = runner.predict(model, datamodule=data)
        scores[kind] = {Path(item.image_path).stem: item.pred_score.item() for batch in batches for item in batch}
    assert scores["dicom"].keys() == scores["png"].keys()
    for name, score in scores["dicom"].items():
        assert score == pytest.approx(scores["png"][name], abs=1e-4), name


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("augmentations", [None, Resize((32, 32))], ids=["whole", "resized"])
def test_dicom_and_16_bit_png_are_the_same_tensors(tmp_path: Path, kind: str, augmentations: object) -> None:
    arguments: dict = {"abnormal_dir": None, "patients": None, "augmentations": augmentations}
    png = module(write_set(tmp_path / "png", lambda _: "png"), **arguments)
    dicom = module(write_set(tmp_path / "dicom", lambda _: kind), **arguments)
    one, other = items(png), items(dicom)
    assert one.keys() == other.keys()
    for name in one:
        assert_close(one[name], other[name], rtol=0, atol=0)
        assert one[name].dtype == torch.float32
        assert 0 <= one[name].min() < one[name].max() <= 1
    states = png.window_state, dicom.window_state
    assert states[0] == states[1]


def test_the_formats_mix_in_one_folder(mixed: Path) -> None:
    data = module(mixed)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape[1] == 3  # without a model nothing is resized: the largest of the batch, which is random
    assert batch.image.dtype == torch.float32
    assert {len(name) for name in batch.patient} <= {0, 16}
    assert len(data.train_data) + len(data.val_data) + len(data.test_data) == 18


def test_eight_bit_images_are_those_of_anomalibs_folder(tiny_folder: Path) -> None:
    arguments: dict = {"name": "tiny", "normal_dir": "train/good", "root": tiny_folder, "num_workers": 0, "seed": 0}
    arguments |= {"normal_test_dir": "test/good", "abnormal_dir": "test/spot", "mask_dir": "ground_truth/spot"}
    arguments |= {"val_split_mode": "same_as_test", "augmentations": Resize((32, 40))}
    ours, theirs = MedicalFolder(**arguments), Folder(**arguments)
    for data in (ours, theirs):
        data.setup()
    assert ours.task == theirs.task
    for part in ("train_data", "val_data", "test_data"):
        one, other = getattr(ours, part), getattr(theirs, part)
        assert len(one) == len(other)
        for index in range(len(one)):
            first, second = one[index], other[index]
            assert str(first.image_path) == str(second.image_path)
            assert_close(first.image, second.image, rtol=0, atol=0)
            assert_close(first.gt_mask, second.gt_mask, rtol=0, atol=0)
            assert_close(first.gt_label, second.gt_label)


def test_a_lesion_of_20_of_4096_levels_reaches_the_model(tmp_path: Path) -> None:
    write_set(tmp_path, lambda _: "dicom")
    pixels = np.full((48, 40), 2000, np.uint16) + (np.arange(40, dtype=np.uint16) * 40)
    lesion = pixels.copy()
    lesion[20:30, 10:20] += 20
    write_as("dicom", tmp_path / "bad/plain", pixels)
    write_as("dicom", tmp_path / "bad/lesion", lesion)
    data = module(tmp_path, val_split_mode="none")
    found = items(data, "test")
    low, high = data.window_state["limits"]
    difference = found["lesion"] - found["plain"]
    assert_close(difference[:, 20:30, 10:20], torch.full((3, 10, 10), 20 / (high - low)), rtol=1e-3, atol=1e-6)
    assert difference[:, :20].abs().max() == 0


def test_a_score_does_not_depend_on_the_batch(trained: tuple[ScaleAwareCRD, Path, Path]) -> None:
    model, _, images = trained
    scores = []
    for size in (1, 5):
        data = module(images, eval_batch_size=size, val_split_mode="none")
        batches = engine(images.parent).predict(model, datamodule=data)
        assert {tuple(batch.image.shape[1:]) for batch in batches} == {(3, 32, 32)}
        scores.append(dict(pair for batch in batches for pair in zip(batch.image_path, batch.pred_score, strict=True)))
    assert scores[0].keys() == scores[1].keys()
    for name in scores[0]:
        assert_close(scores[0][name], scores[1][name], rtol=1e-5, atol=1e-5)


def test_the_window_goes_into_the_checkpoint_and_comes_back(trained: tuple[ScaleAwareCRD, Path, Path]) -> None:
    model, checkpoint, images = trained
    data = module(images)
    data.setup()
    assert model.window == data.window_state
    assert model.window["mode"] == "values"
    assert ScaleAwareCRD.load_from_checkpoint(checkpoint).window == model.window
    torch.load(checkpoint, weights_only=True)


def test_a_trained_model_keeps_its_window(trained: tuple[ScaleAwareCRD, Path, Path], tmp_path: Path) -> None:
    model, checkpoint, _ = trained
    brighter = tmp_path / "brighter"
    for part, count in (("normal", 6), ("bad", 3)):
        for index in range(count):
            pixels = grey(index) // 2 + np.uint16(1000)
            write_as("dicom", brighter / part / f"{index}", pixels, PatientID=f"{part}{index}")
    for arguments in ({"model": model}, {"model": small_model(), "ckpt_path": checkpoint}):
        data = module(brighter)
        engine(tmp_path).test(datamodule=data, **arguments)
        assert data.window_state == model.window
    data = module(brighter)
    engine(tmp_path, max_steps=1).fit(fresh := small_model(), datamodule=data)
    assert fresh.window == data.window_state != model.window
    data = module(brighter)  # goes on from step 2
    engine(tmp_path, max_steps=3).fit(resumed := small_model(), datamodule=data, ckpt_path=checkpoint)
    assert resumed.window == data.window_state == model.window
    assert resumed.global_step == 3


def test_a_model_for_another_plane_is_refused(trained: tuple[ScaleAwareCRD, Path, Path]) -> None:
    model, _, images = trained
    data = module(images)
    with pytest.raises(ValueError, match="was trained on coronal slices, the data module takes axial ones"):
        data.use_window({**model.window, "volumes": {"plane": "coronal"}})


def sides(data: MedicalFolder) -> list[set[str]]:
    data.setup()
    return [set(getattr(data, f"{part}_data").samples.patient) for part in ("train", "val", "test")]


@pytest.mark.parametrize("mode", ["from_test", "from_train", "synthetic"])
def test_no_patient_is_on_two_sides(tmp_path: Path, mode: str) -> None:
    # Patients of three normal images each; the first two of them have anomalous images as well.
    root = write_set(tmp_path, lambda _: "dicom", lambda _, index: f"P{index // 3}")
    train, val, test = sides(module(root, val_split_mode=mode, val_split_ratio=0.4, test_split_ratio=0.1))
    assert train
    assert val
    assert test
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train | val | test) == 4


def test_a_given_split_that_shares_patients_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path, lambda _: "dicom", lambda _, index: f"P{index // 3}")
    for index in range(3):
        write_as("dicom", root / f"test/{index}", grey(500 + index), PatientID=f"P{3 + index}")
    arguments: dict = {"normal_test_dir": "test"}
    message = r"3 patients are both among the training images \(4 patients\) and the test images \(5 patients\)"
    with pytest.raises(ValueError, match=message) as raised:
        module(root, **arguments).setup()
    assert "P0" not in str(raised.value)
    data = module(root, **arguments, patients=None)
    data.setup()
    assert set(data.train_data.samples.patient) == {""}


def test_patients_by_pattern_and_table(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for index in range(12):
        write_as("png", root / f"normal/p{index // 3}_{index}", grey(index))
    for index in range(4):
        write_as("png", root / f"bad/p{10 + index}_{index}", grey(50 + index))
    arguments: dict = {"val_split_mode": "from_train", "patient_salt": tmp_path / "salt"}
    pattern = module(root, patients={"pattern": r"(p\d+)_"}, **arguments)
    train, val, test = sides(pattern)
    assert len(train | val | test) == 8
    assert not train & val
    assert not (train | val) & test
    rows = [f"{path.relative_to(root).as_posix()},{path.name.split('_')[0]}" for path in sorted(root.rglob("*.png"))]
    (root / "who.csv").write_text("\n".join(["image,case", *rows]), encoding="utf-8")
    source = {"csv": str(root / "who.csv"), "file": "image", "patient": "case"}
    table = module(root, patients=source, **arguments)
    assert sides(table) == [train, val, test]
    (root / "who.csv").write_text("\n".join(["image,case", *rows[1:]]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no row for 'bad/p10_0.png' in its column 'image'"):
        module(root, patients=source).setup()
    with pytest.raises(ValueError, match=r"lacks the columns \['patient'\]; it has \['image', 'case'\]"):
        module(root, patients={"csv": source["csv"], "file": "image"})
    with pytest.raises(ValueError, match=r"finds nothing in the path '.*p0_0.png'"):
        module(root, patients={"pattern": "case"}).setup()
    with pytest.raises(ValueError, match=r"matches the path '.*p0_0.png' without its first group, the patient"):
        module(root, patients={"pattern": r"normal/(x)?"}).setup()
    repeated = [*rows, rows[0], rows[1].replace(",p11", ",p99")]
    (root / "who.csv").write_text("\n".join(["image,case", *repeated]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"1 names in .* more than one patient: 'bad/p11_1.png' has \['p11', 'p99'\]"):
        module(root, patients=source)
    with pytest.raises(ValueError, match="is not a regular expression"):
        module(root, patients={"pattern": "("})
    with pytest.raises(ValueError, match="patients must be dicom"):
        module(root, patients="header")


def test_slices_of_a_volume_stay_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("normal", 5), ("bad", 2)):
        (tmp_path / part).mkdir()
        for index in range(count):
            volume = rng.integers(0, 2000, (12, 14, 6)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / part / f"{index}.nii.gz")
    data = module(tmp_path, val_split_mode="from_train", val_split_ratio=0.3)
    data.setup()
    parts = [getattr(data, f"{part}_data").samples for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == 7 * 6
    volumes = [set(part.volume) for part in parts]
    assert [len(part) // 6 for part in parts] == [len(volume) for volume in volumes]
    assert not volumes[0] & volumes[1]
    names = [data.train_data[index].image_path for index in range(len(data.train_data))]
    assert len(set(names)) == len(names)
    assert names[1].endswith("_0001.nii.gz")


def test_masks_of_volumes_label_their_slices(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 14, 6), np.uint8)
    mask[2:5, 3:7, 1:4] = 1
    for part in ("normal", "bad", "masks"):
        (tmp_path / part).mkdir()
    for index in range(3):
        volume = rng.integers(0, 2000, mask.shape).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, 1, 1, 1])), tmp_path / "normal" / f"{index}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, 1, 1, 1])), tmp_path / "bad/case.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([-1.0, 1, 1, 1])), tmp_path / "masks/case_seg.nii")
    data = module(tmp_path, mask_dir="masks", val_split_mode="none", test_split_mode="none")
    data.setup()
    test = [data.test_data[index] for index in range(6)]
    assert [int(item.gt_label) for item in test] == [0, 1, 1, 1, 0, 0]
    assert [int(item.gt_mask.sum()) for item in test] == [0, 12, 12, 12, 0, 0]
    values = (test[2].image[0] * 1000)[test[2].gt_mask.bool()]
    low, high = data.window_state["limits"]
    inside = np.clip((np.sort(volume[2:5, 3:7, 2].ravel()) - low) / (high - low), 0, 1)
    assert_close(values.sort().values, torch.from_numpy(inside * 1000).float(), rtol=1e-4, atol=1e-3)


def test_masks_are_turned_with_their_images(tmp_path: Path) -> None:
    write_set(tmp_path, lambda _: "dicom")
    (tmp_path / "masks").mkdir()
    for path in sorted((tmp_path / "bad").iterdir()):
        path.unlink()
    for kind in ("dicom", "turned"):
        pixels = grey(0)
        pixels[5:9, 20:30] = 4095
        write_as(kind, tmp_path / "bad" / kind, pixels)
        mask = pixels == 4095
        stored = np.ascontiguousarray(mask.T[::-1]) if kind == "turned" else mask
        Image.fromarray(stored.astype(np.uint8) * 255).save(tmp_path / "masks" / f"{kind}-mask.png")
    data = module(tmp_path, mask_dir="masks", val_split_mode="none", window=[2000, 4200])
    data.setup()
    found = [data.test_data[index] for index in range(len(data.test_data)) if data.test_data[index].gt_label == 1]
    assert len(found) == 2
    for item in found:
        assert item.gt_mask.sum() == 40
        assert (item.image[0][item.gt_mask.bool()] > 0.99).all()


def test_missing_masks_are_named(tmp_path: Path) -> None:
    write_set(tmp_path, lambda _: "png")
    (tmp_path / "masks").mkdir()
    for index in (0, 1, 2, 5):
        Image.fromarray(np.full((48 + 4 * (index % 3), 40), 255, np.uint8)).save(tmp_path / f"masks/{index:02d}.png")
    with pytest.raises(
        ValueError, match=r"2 of 6 images in abnormal_dir have no mask in mask_dir: .*03.png', .*04.png"
    ):
        module(tmp_path, mask_dir="masks").setup()
    for index in (3, 4):
        Image.fromarray(np.full((10, 10), 255, np.uint8)).save(tmp_path / f"masks/{index:02d}.png")
    data = module(tmp_path, mask_dir="masks", val_split_mode="none")
    data.setup()
    with pytest.raises(UnreadableImageError, match=r"masks/03.png': this mask has \(10, 10\) pixels, its image"):
        [data.test_data[index] for index in range(len(data.test_data))]


def test_a_mask_belongs_to_the_image_of_the_longest_name() -> None:
    def pairs(images: str, masks: str) -> dict[str, str]:
        found = pair_masks(*([Path(name) for name in names.split()] for names in (images, masks)))
        return {image.name: mask.name for image, mask in found.items()}

    for mask in ("p1_2.png", "p1_2_mask.png"):  # not that of p1, too
        with pytest.raises(ValueError, match=r"1 of 2 images in abnormal_dir have no mask in mask_dir: 'p1.png'"):
            pairs("p1.png p1_2.png", mask)
    assert pairs("p1.png p1_2.png", "p1_2-m.png p1-m.png") == {"p1.png": "p1-m.png", "p1_2.png": "p1_2-m.png"}
    assert pairs("p1.nii.gz", "p1_seg_2.nii p10.nii") == {"p1.nii.gz": "p1_seg_2.nii"}
    assert pairs("IM.0001 IM.0002", "IM.0001.png IM.0002.png") == {"IM.0001": "IM.0001.png", "IM.0002": "IM.0002.png"}


def test_padding_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    root = write_set(tmp_path, lambda _: "dicom")
    data = module(root, abnormal_dir=None, pad_to_square=True)
    data.setup()
    for index in range(3):
        image = data.train_data[index].image
        assert image.shape[1] == image.shape[2]
        assert (image[:, :, 0] == 0).all()
        assert (image[:, :, -1] == 0).all()
    assert data.window_state["pad_to_square"] is True


@pytest.mark.parametrize("mode", ["none", "same_as_test", "from_train", "from_test", "synthetic"])
@pytest.mark.parametrize("test_mode", ["from_dir", "synthetic", "none"])
def test_every_mode_of_splitting(mixed: Path, mode: str, test_mode: str) -> None:
    arguments = {"val_split_mode": mode, "val_split_ratio": 0.3, "test_split_mode": test_mode, "test_split_ratio": 0.4}
    data = module(mixed, **arguments)
    data.setup()
    total = {"from_dir": 18, "synthetic": 12, "none": 18}[test_mode]
    counted = len(data.train_data) + len(data.test_data) + (0 if mode == "same_as_test" else len(_val(data)))
    assert counted == total
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch.image.shape[1] == 3


def _val(data: MedicalFolder) -> object:
    return getattr(data, "val_data", ())


def test_synthetic_anomalies_are_repeatable(mixed: Path) -> None:
    def validation(seed: int) -> list:
        data = module(mixed, val_split_mode="synthetic", val_split_ratio=0.5, seed=seed)
        data.setup()
        torch.manual_seed(len(validation.__name__) + seed)
        return [data.val_data[index] for index in range(len(data.val_data))]

    first, again, other = validation(0), validation(0), validation(1)
    assert sum(int(item.gt_label) for item in first) == len(first) // 2
    for one, two in zip(first, again, strict=True):
        assert_close(one.image, two.image, rtol=0, atol=0)
        assert bool(one.gt_mask.any()) == bool(one.gt_label)
        assert one.image.min() >= 0
        assert one.image.max() <= 1
    assert [item.image_path for item in first] != [item.image_path for item in other]


def test_bad_files_are_refused_or_left_out(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    (mixed / "normal/04.dcm").write_bytes((mixed / "normal/04.dcm").read_bytes()[:-50])
    write_dicom(mixed / "bad/06.dcm", grey(0), PixelData=None)
    with pytest.raises(UnreadableImageError, match=r"1 files cannot be read: '.*bad/06.dcm' \(it is a DICOM file"):
        module(mixed).setup()
    data = module(mixed, on_error="skip")
    data.setup()
    assert {path.name for path in data.left_out} == {"04.dcm", "06.dcm"}
    assert "2 files were left out" in caplog.text
    assert "it is truncated" in caplog.text
    assert len(data.train_data) + len(data.val_data) + len(data.test_data) == 17


def test_a_truncated_file_is_named_in_training(mixed: Path) -> None:
    path = mixed / "normal/04.dcm"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UnreadableImageError, match=rf"cannot read '{path}': it is truncated"):
        engine(mixed.parent).fit(small_model(), datamodule=module(mixed, test_split_mode="none"))


def test_names_of_every_alphabet(tmp_path: Path) -> None:
    root = write_set(tmp_path / "Müller 王", lambda index: KINDS[index % 2])
    runner = engine(tmp_path)
    runner.fit(model := small_model(), datamodule=(data := module(root)))
    assert len(runner.test(model, datamodule=data)) == 1
    assert {path for batch in runner.predict(model, datamodule=data) for path in batch.image_path}


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentations_and_workers(mixed: Path, workers: int) -> None:
    flip = Compose([RandomHorizontalFlip(p=1.0)])
    data = module(mixed, train_augmentations=flip, num_workers=workers)
    engine(mixed.parent).fit(small_model(), datamodule=data)
    plain = module(mixed, augmentations=Resize((32, 32)))
    plain.setup()
    assert_close(data.train_data[0].image.flip(-1), plain.train_data[0].image, atol=2e-2, rtol=0)


def test_folders_that_do_not_fit(mixed: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"abnormal_dir '.*nowhere' is not a folder"):
        module(mixed, abnormal_dir="nowhere").setup()
    (mixed / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"normal_test_dir '.*nothing' has no image: no file in it has a known suffix"):
        module(mixed, normal_test_dir="nothing").setup()
    with pytest.raises(ValueError, match=r"no file in it has one of the suffixes \['.jpg'\]"):
        module(mixed, extensions=(".jpg",)).setup()
    with pytest.raises(ValueError, match=r"window must be auto, .* got 'bright'"):
        module(mixed, window="bright")
    with pytest.raises(ValueError, match="val_split_mode must be one of"):
        module(mixed, val_split_mode="from_dir")
    write_set(mixed.parent / "one", lambda _: "dicom", lambda *_: "same")
    with pytest.raises(ValueError, match=r"of 1 patients or volumes cannot be split"):
        module(mixed.parent / "one", abnormal_dir=None).setup()


def test_lookups_and_the_command_line(tmp_path: Path) -> None:
    config = {"class_path": "MedicalFolder", "init_args": {"name": "x", "normal_dir": "n", "window": [40, 400]}}
    assert isinstance(get_datamodule({"data": config}), MedicalFolder)
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    options = ["--data", "MedicalFolder", "--data.name", "x", "--data.normal_dir", "n", "--data.root", str(tmp_path)]
    for text, value in (("auto", "auto"), ("[40, 400]", [40, 400]), ('{"each": [1, 99]}', {"each": [1, 99]})):
        arguments = [*options, "--data.window", text, "--data.volumes.plane", "coronal"]
        arguments += ["--data.patients", '{"pattern": "p[0-9]+"}', "--data.on_error", "skip"]
        data = parser.instantiate_classes(parser.parse_args(arguments)).data
        assert data.window == value
        assert data.source.volumes.plane == "coronal"
        assert data.patients == {"pattern": "p[0-9]+"}


def test_no_identifier_is_in_the_table(mixed: Path) -> None:
    data = module(mixed)
    data.setup()
    text = data.train_data.samples.to_string() + repr(data.train_data[0])
    for value in (*IDENTIFYING.values(), "normal0", "normal1"):
        assert value not in text.replace(str(mixed), "")
