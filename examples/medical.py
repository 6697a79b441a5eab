"""Medical images, from DICOM or NIfTI to a device without torch: train, export, score, report.

ANOMALIB_SCRD_DATA=DATA python examples/medical.py [--set chest_xray] [--steps 400] [--keep FOLDER]

DATA has chest_xray, brain_mri or lgg_flair, each with train/good, test/good and test/KIND (lgg_flair also
ground_truth/tumor). The script converts the images to DICOM of 12 and 16 bits with two windows, partly MONOCHROME1,
several files per patient (chest_xray, brain_mri), or to NIfTI volumes with masks, one per patient (lgg_flair). It
trains the edge preset on them at 128 x 128 pixels and exports the model in FP32 and INT8. Both exports score the test
files by `python -m anomalib_scrd.edge` in an environment without torch and anomalib: without --edge-python the script
creates one and installs the edge distribution into it. It prints the difference between exports and training, images
per second, AUROC by image and by patient, and the path of the report of the INT8 export. It also trains on the DICOM
sets as 16-bit PNG and prints the difference of the scores. --images limits the number of images of each folder. Without
--keep everything is in a temporary folder.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
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
EDGE = Path(__file__).resolve().parent.parent / "anomalib_scrd" / "edge"


def twelve_bits(path: Path) -> np.ndarray:
    """An 8-bit image with four more low bits of noise, which an 8-bit reader would lose."""
    grey = np.asarray(Image.open(path).convert("L"), np.uint16)
    return grey * 16 + np.random.default_rng(len(path.name)).integers(0, 16, grey.shape, dtype=np.uint16)


def write_dicom(path: Path, values: np.ndarray, number: int, patient: str) -> None:
    """Every third file is MONOCHROME1, every fifth is of 16 bits with an offset that RescaleIntercept removes."""
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
    # A reader returns stored - offset, for MONOCHROME1 subtracted from the sum of its smallest and largest value.
    stored = 2**data.BitsStored - 1 - offset - values if inverted else values + offset
    data.Rows, data.Columns = values.shape
    data.PixelData = stored.astype(np.uint16).tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path)


def make_dicom(source: Path, work: Path, most: int | None = None) -> dict[str, Any]:
    """Write a set as DICOM in `dcm`, the same values as 16-bit PNG in `png`; return MedicalFolder's arguments."""
    kinds = sorted(path.name for path in (source / "test").iterdir() if path.name != "good")
    parts = {
        "train": ["train/good"],
        "test/normal": ["test/good"],
        "test/anomalous": [f"test/{kind}" for kind in kinds],
    }
    rows: list[tuple[str, str]] = []
    for part, folders in parts.items():
        for suffix in ("dcm", "png"):
            (work / suffix / part).mkdir(parents=True)
        files = [path for folder in folders for path in sorted((source / folder).iterdir())[:most]]
        for number, path in enumerate(files):
            values = twelve_bits(path)
            patient = f"{part}-{number // PER_PATIENT}"
            rows.append((f"{part}/{number:04d}.png", patient))
            write_dicom(work / "dcm" / part / f"{number:04d}.dcm", values, number, patient)
            Image.fromarray(values).save(work / "png" / part / f"{number:04d}.png")
    with (work / "png/patients.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "patient"), *rows])
    return {"normal_dir": "train", "normal_test_dir": "test/normal", "abnormal_dir": "test/anomalous"}


def make_nifti(source: Path, work: Path, most: int | None = None) -> dict[str, Any]:
    """Write slices as one volume per patient in `nii`: images, and masks of the patients with a tumour."""
    slices: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for part, folders in (("train", ["train/good"]), ("test", ["test/good", "test/tumor"])):
        for path in (path for folder in folders for path in sorted((source / folder).iterdir())[:most]):
            slices[part, path.stem.rsplit("_", 1)[0]].append(path)
    root, affine = work / "nii", np.diag([-1.0, -1.0, 3.0, 1.0])
    for number, ((part, _), files) in enumerate(sorted(slices.items())):
        files.sort(key=lambda path: int(path.stem.rsplit("_", 1)[1]))
        masks = [source / "ground_truth/tumor" / path.name for path in files]
        ill = any(mask.is_file() for mask in masks)
        folder = "train" if part == "train" else "test/anomalous" if ill else "test/normal"
        volume = np.stack([twelve_bits(path).T for path in files], axis=-1).astype(np.int16)
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume, affine), root / folder / f"{number:03d}.nii.gz")
        if ill:
            truth = [np.asarray(Image.open(m).convert("L")).T > 0 if m.is_file() else volume[..., 0] < 0 for m in masks]
            (root / "masks/anomalous").mkdir(parents=True, exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(np.stack(truth, axis=-1).astype(np.uint8), affine),
                root / "masks/anomalous" / f"{number:03d}.nii.gz",
            )
    folders = {"normal_dir": "train", "abnormal_dir": "test/anomalous", "mask_dir": "masks"}
    return folders | ({"normal_test_dir": "test/normal"} if (root / "test/normal").is_dir() else {})


class Trained:
    """A model trained on the files below `root`, metrics of its test, and score and label by name of the image."""

    def __init__(self, root: Path, folders: dict[str, Any], steps: int, results: Path) -> None:
        seed_everything(0)
        self.data = MedicalFolder(
            "medical",
            root=root,
            **folders,
            train_batch_size=16,
            num_workers=0,
            seed=0,
            val_split_mode="none",
            test_split_ratio=0.2,
        )
        pre_processor = ScaleAwareCRD.configure_pre_processor(SIZE)
        self.model = ScaleAwareCRD("edge", pre_processor=pre_processor, visualizer=False, seed=0)
        engine = Engine(max_steps=steps, default_root_dir=results, logger=False, accelerator="cpu")
        engine.fit(self.model, datamodule=self.data)
        self.checkpoint = Path(engine.best_model_path)
        self.metrics = engine.test(self.model, datamodule=self.data)[0]
        self.scores: dict[str, tuple[float, int]] = {}
        for batch in engine.predict(self.model, datamodule=self.data):
            for item in batch:
                name = Path(item.image_path).relative_to(root / "test").as_posix()
                self.scores[name] = float(item.pred_score), int(item.gt_label)


def edge_environment(folder: Path) -> str:
    """Create an environment with only the edge distribution and its readers of medical files."""
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{EDGE}[medical]"], check=True)  # noqa: S603
    return python


def outside(python: str) -> dict[str, str]:
    """Environment variables of the device's processes, without this environment's packages."""
    absent = "from importlib.util import find_spec as f; print(*[n for n in ('torch', 'anomalib') if f(n)])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    there = subprocess.run([python, "-c", absent], check=True, capture_output=True, text=True, env=clean).stdout  # noqa: S603
    if there.strip():
        sys.exit(f"--edge-python {python!r} has {there.strip()}: the device must have neither")
    return clean


def edge(python: str, *words: object) -> None:
    """Run a command of the edge runner."""
    line = [python, "-m", "anomalib_scrd.edge", *map(str, words), "--quiet"]
    subprocess.run(line, check=True, env=outside(python), cwd=Path(python).parent)  # noqa: S603


def edge_scores(output: Path) -> dict[str, float]:
    """Scores by name of the image, from the edge runner's table."""
    found = {}
    with (output / "scores.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            path, _, name = row["path"].rpartition("/")
            stem, dot, suffix = name.partition(".")
            number = f"_{int(row['picture']):04d}" if row["volume"] else ""
            found[f"{path}/{stem}{number}{dot}{suffix}"] = float(row["score"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="chest_xray", choices=("chest_xray", "brain_mri", "lgg_flair"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--images", type=int, metavar="N", help="at most, of each folder of DATA")
    parser.add_argument("--edge-python", help="interpreter without torch and anomalib; default: of a new environment")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    source = Path(os.environ.get("ANOMALIB_SCRD_DATA", "datasets")).resolve() / options.set
    if not (source / "train/good").is_dir():
        parser.error(f"{source} has no train/good; set ANOMALIB_SCRD_DATA to the folder with {options.set}")
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep {options.keep} must be a new or empty folder")
    with tempfile.TemporaryDirectory() as temporary:
        run(source, (options.keep or Path(temporary)).resolve(), options)


def run(source: Path, work: Path, options: argparse.Namespace) -> None:
    python = options.edge_python or edge_environment(work / "environment")
    outside(python)
    volumes = options.set == "lgg_flair"
    folders = (make_nifti if volumes else make_dicom)(source, work, options.images)
    files = work / ("nii" if volumes else "dcm")
    trained = Trained(files, folders, options.steps, work / "results")
    known = {name: trained.scores[name] for name in sorted(trained.scores)}
    labels = [label for _, label in known.values()]
    counts = f"{len(trained.data.train_data)} training images, {len(known)} test images"
    lines = [
        f"{options.set}: {counts}, window {trained.model.window}",
        f"training: {', '.join(f'{name} {value:.4f}' for name, value in trained.metrics.items())}",
    ]
    if not volumes:
        patients = {"patients": {"csv": str(work / "png/patients.csv")}}  # in DICOM the header has them
        png = Trained(work / "png", folders | patients, options.steps, work / "results").scores
        pairs = [(score, png[name.replace(".dcm", ".png")][0]) for name, (score, _) in known.items()]
        lines.append(f"DICOM against the same images as 16-bit PNG: scores differ by {largest(pairs):.1e} at most")
    for name, compression in (("FP32", None), ("INT8", CompressionType.INT8_PTQ)):
        exported = trained.model.to_openvino(work / name, compression_type=compression, datamodule=trained.data)
        output = work / f"edge_{name}"
        started = time.perf_counter()
        edge(python, exported, files / "test", "--output", output)
        seconds = time.perf_counter() - started
        found = edge_scores(output)
        missing = known.keys() - found.keys()
        if missing:
            sys.exit(f"the edge runner has no score of {len(missing)} images, such as {sorted(missing)[:3]}")
        auroc = roc_auc_score(labels, [found[image] for image in known])
        difference = largest([(score, found[image]) for image, (score, _) in known.items()])
        lines.append(
            f"{name} without torch: scores differ from training's by {difference:.1e} at most, AUROC {auroc:.4f}, "
            f"{len(found) / seconds:.0f} images/s with start and reading on {os.cpu_count()} cores"
        )
    salt = ["--salt", work / "salt"]  # the report has pseudonyms of patients and files
    command = [sys.executable, "-m", "anomalib_scrd.export.training_scores", trained.checkpoint, files / "test"]
    subprocess.run([*map(str, [*command, "--output", work / "training", *salt])], check=True)  # noqa: S603
    masks = ["--masks", files / "masks"] if volumes else []
    words = [exported, files / "test", "--output", work / "report", "--training", work / "training", *salt, *masks]
    edge(python, "report", *words)
    lines.append(f"report: {work / 'report/report.html'}{'' if options.keep else ' (give --keep to keep it)'}")
    print("\n".join(lines))


def largest(pairs: list[tuple[float, float]]) -> float:
    """The largest difference of two numbers."""
    return float(np.abs(np.subtract(*np.array(pairs).T)).max())


if __name__ == "__main__":
    main()
