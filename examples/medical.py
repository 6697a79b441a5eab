"""Medical images from the files of a hospital to a box without torch: train, export, score, report.

ANOMALIB_SCRD_DATA=DATA python examples/medical.py [--set SET] [--steps 400] [--edge-python PYTHON] [--keep FOLDER]

DATA holds chest_xray, brain_mri or lgg_flair, each with train/good, test/good and test/KIND (lgg_flair also
ground_truth/tumor). Its images are written as a hospital has them: DICOM of 12 and 16 bits with two windows, some of it
MONOCHROME1, of several patients (chest_xray, brain_mri), or NIfTI volumes with masks, one per patient (lgg_flair). A
model of the edge preset is trained on them for 128 x 128 pixels, exported in FP32 and INT8, and scores the test files
by `python -m anomalib_scrd.edge`, run by PYTHON, which needs neither torch nor anomalib. Printed are the difference
between the exported model and training, images per second, and AUROC by image and by patient. DICOM sets are also
trained on as 16-bit PNG, with the difference of the scores. Without --keep everything is in a temporary folder.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np
import torch
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from lightning import seed_everything
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from sklearn.metrics import roc_auc_score

from anomalib_scrd import MedicalFolder, ScaleAwareCRD

SIZE = (128, 128)
PER_PATIENT = 4


def twelve_bits(path: Path) -> np.ndarray:
    """An 8-bit image with four more bits of noise below, which a reader of 8 bits would lose."""
    grey = np.asarray(Image.open(path).convert("L"), np.uint16)
    return grey * 16 + np.random.default_rng(len(path.name)).integers(0, 16, grey.shape, dtype=np.uint16)


def write_dicom(path: Path, values: np.ndarray, number: int, patient: str) -> None:
    """Every third file is MONOCHROME1, every fifth is stored with an offset that RescaleIntercept takes back."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientID, data.PatientName, data.PatientBirthDate = patient, f"Example^{patient}", "19700101"
    data.SeriesInstanceUID = generate_uid()
    inverted, offset = number % 3 == 0, 100 if number % 5 == 0 else 0
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = (16, 16, 15) if offset else (16, 12, 11)
    if offset:
        data.RescaleSlope, data.RescaleIntercept = 1, -offset
    data.PixelRepresentation, data.SamplesPerPixel = 0, 1
    data.WindowCenter, data.WindowWidth = [2048, 1200], [4096, 800]
    top = 2**data.BitsStored - 1
    # What is read is (top - stored) + rescaled ends for MONOCHROME1, and stored - offset otherwise.
    stored = top - (values + offset) if inverted else values + offset
    if inverted and offset:
        stored = top - offset - values
    data.Rows, data.Columns = values.shape
    data.PixelData = stored.astype(np.uint16).tobytes()
    data.save_as(path)


def make_dicom(source: Path, target: Path, kind: str) -> dict[str, str]:
    """Write a set as DICOM, and the same values as 16-bit PNG; gives the arguments of MedicalFolder."""
    parts = {"train": ["train/good"], "test_normal": ["test/good"]}
    parts["test_anomalous"] = [
        f"test/{path.name}" for path in sorted((source / "test").iterdir()) if path.name != "good"
    ]
    for part, folders in parts.items():
        files = [path for folder in folders for path in sorted((source / folder).iterdir())]
        for number, path in enumerate(files):
            values = twelve_bits(path)
            for suffix in ("dcm", "png"):
                (target / suffix / part).mkdir(parents=True, exist_ok=True)
            write_dicom(target / "dcm" / part / f"{number:04d}.dcm", values, number, f"{part}{number // PER_PATIENT}")
            Image.fromarray(values).save(target / "png" / part / f"{number:04d}.png")
    return {"normal_dir": "train", "normal_test_dir": "test_normal", "abnormal_dir": "test_anomalous"} | {"root": kind}


def make_nifti(source: Path, target: Path) -> dict[str, str]:
    """Write slices as one volume per patient: images, and masks of the patients who have a tumour."""
    slices: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for part, folders in (("train", ["train/good"]), ("test", ["test/good", "test/tumor"])):
        for path in (path for folder in folders for path in sorted((source / folder).iterdir())):
            slices[part, path.stem.rsplit("_", 1)[0]].append(path)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    for number, ((part, _), files) in enumerate(sorted(slices.items())):
        files.sort(key=lambda path: int(path.stem.rsplit("_", 1)[1]))
        masks = [source / "ground_truth/tumor" / path.name for path in files]
        ill = any(mask.is_file() for mask in masks)
        folder = "train" if part == "train" else "test_anomalous" if ill else "test_normal"
        volume = np.stack([twelve_bits(path).T for path in files], axis=-1).astype(np.int16)
        (target / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume, affine), target / folder / f"{number:03d}.nii.gz")
        if ill:
            truth = [np.asarray(Image.open(m).convert("L")).T > 0 if m.is_file() else volume[..., 0] < 0 for m in masks]
            (target / "masks").mkdir(exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(np.stack(truth, axis=-1).astype(np.uint8), affine),
                target / "masks" / f"{number:03d}.nii.gz",
            )
    arguments = {"normal_dir": "train", "abnormal_dir": "test_anomalous", "mask_dir": "masks", "root": str(target)}
    return arguments | ({"normal_test_dir": "test_normal"} if (target / "test_normal").is_dir() else {})


def train(arguments: dict[str, str], steps: int, results: Path) -> tuple[ScaleAwareCRD, MedicalFolder, dict, dict]:
    """Train on a set; gives model, data, metrics of the test, and score and label by name of the image."""
    seed_everything(0)
    data = MedicalFolder("medical", **arguments, train_batch_size=16, num_workers=0, seed=0, val_split_mode="none")
    model = ScaleAwareCRD("edge", pre_processor=ScaleAwareCRD.configure_pre_processor(SIZE), visualizer=False)
    engine = Engine(max_steps=steps, default_root_dir=results, logger=False, accelerator="cpu")
    engine.fit(model, datamodule=data)
    metrics = engine.test(model, datamodule=data)[0]
    batches = engine.predict(model, datamodule=data)
    scores = {
        str(Path(item.image_path).relative_to(arguments["root"])): (float(item.pred_score), int(item.gt_label))
        for batch in batches
        for item in batch
    }
    return model, data, metrics, scores


def edge_scores(python: str, model: Path, root: Path, output: Path) -> tuple[dict[str, float], float]:
    """Score the test folders without torch; gives scores by name, and images per second with reading and starting."""
    found: dict[str, float] = {}
    started = time.perf_counter()
    for folder in sorted(path for path in root.iterdir() if path.name.startswith("test_")):
        target = output / folder.name
        command = [python, "-m", "anomalib_scrd.edge", str(model), str(folder), "--output", str(target), "--quiet"]
        subprocess.run(command, check=True)  # noqa: S603 - the user's own interpreter
        with (target / "scores.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                stem, dot, suffix = row["path"].partition(".")
                number = f"_{int(row['picture']):04d}" if suffix.startswith("nii") else ""
                found[f"{folder.name}/{stem}{number}{dot}{suffix}"] = float(row["score"])
    return found, len(found) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="chest_xray", choices=("chest_xray", "brain_mri", "lgg_flair"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--edge-python", default=sys.executable)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    source = Path(os.environ.get("ANOMALIB_SCRD_DATA", "datasets")) / options.set
    if not (source / "train/good").is_dir():
        parser.error(f"{source} has no train/good; set ANOMALIB_SCRD_DATA to the folder that holds {options.set}")
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.keep or Path(temporary)).resolve()
        run(source, work, options)


def run(source: Path, work: Path, options: argparse.Namespace) -> None:
    if options.set == "lgg_flair":
        arguments, files = make_nifti(source, work / "nii"), work / "nii"
    else:
        arguments, files = make_dicom(source, work, str(work / "dcm")), work / "dcm"
    model, data, metrics, scores = train(arguments, options.steps, work / "results")
    print(f"{options.set}: {len(data.train_data)} training images, {len(scores)} test images, window {model.window}")
    lines = [f"AUROC in training: {metrics}"]
    if options.set != "lgg_flair":
        *_, png = train(arguments | {"root": str(work / "png")}, options.steps, work / "results")
        pairs = [(scores[name][0], png[name.replace(".dcm", ".png")][0]) for name in scores]
        lines.append(f"DICOM against the same images as 16-bit PNG: scores differ by {_largest(pairs):.2e} at most")
    labels = [label for _, label in scores.values()]
    for name, compression in (("FP32", None), ("INT8", CompressionType.INT8_PTQ)):
        exported = model.to_openvino(work / name, input_size=SIZE, compression_type=compression, datamodule=data)
        found, rate = edge_scores(options.edge_python, exported, files, work / f"edge_{name}")
        assert found.keys() == scores.keys(), sorted(found.keys() ^ scores.keys())[:5]
        difference = _largest([(scores[image][0], found[image]) for image in scores])
        auroc = roc_auc_score(labels, [found[image] for image in scores])
        lines.append(
            f"{name} without torch: scores differ from training's by {difference:.2e} at most, AUROC {auroc:.4f}, "
            f"{rate:.1f} images/s with start and reading, on {os.cpu_count()} cores"
        )
    print("\n".join(lines))


def _largest(pairs: list[tuple[float, float]]) -> float:
    one, other = torch.tensor(pairs).T
    return float((one - other).abs().max())


if __name__ == "__main__":
    main()
