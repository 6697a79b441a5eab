"""Speed of reading medical images: 512 x 512 DICOM of 16 bits, windowed and resized, compared with a training step.

python examples/reading_speed.py [--size 256] [--images 128] [--preset edge] [--syntax plain]

Prints milliseconds per image of reading, of reading and windowing, and of a whole item; images per second of a loader
with 0, 1 and 2 worker processes; milliseconds of a training step on a batch of 16 and of its wait for the batch; and
the time of reading and windowing a batch as a share of a step.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from anomalib.engine import Engine
from lightning import Callback
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid
from torch.utils.data import DataLoader

from anomalib_scrd import MedicalFolder, ScaleAwareCRD
from anomalib_scrd.imaging import list_pictures, read_picture

BATCH, STEPS = 16, 10
QUIET = {"logger": False, "enable_progress_bar": False, "limit_val_batches": 0}
SYNTAXES = {"plain": ExplicitVRLittleEndian, "rle": RLELossless, "jpeg2000": JPEG2000Lossless}


def write(path: Path, seed: int, syntax: str) -> None:
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.sin(np.linspace(0, 9, 512) + seed), np.cos(np.linspace(0, 7, 512)))
    pixels = (2000 + 800 * smooth + rng.normal(0, 20, (512, 512))).clip(0, 4095).astype(np.uint16)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.Rows = data.Columns = 512
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept, data.PixelData = 1, -1024, pixels.tobytes()
    data["PixelData"].VR = "OW"
    if syntax != "plain":
        data.compress(SYNTAXES[syntax])
    data.save_as(path)


def median(function: Callable[[int], object], count: int) -> float:
    """Milliseconds of a call."""
    times = []
    for index in range(count):
        started = time.perf_counter()
        function(index)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--preset", default="edge")
    parser.add_argument("--syntax", default="plain", choices=SYNTAXES)
    options = parser.parse_args()
    model = ScaleAwareCRD(
        options.preset,
        pre_processor=ScaleAwareCRD.configure_pre_processor((options.size, options.size)),
        visualizer=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "normal").mkdir()
        for index in range(options.images):
            write(Path(folder) / f"normal/{index:04d}.dcm", index, options.syntax)
        data = MedicalFolder("speed", "normal", folder, train_batch_size=BATCH, num_workers=0, patients=None)
        data.setup()
        data.train_data.augmentations = model.pre_processor.transform.transforms[0]
        measure(model, data)


def measure(model: ScaleAwareCRD, data: MedicalFolder) -> None:
    images, count = data.train_data, min(100, len(data.train_data))
    paths = [Path(path) for path in images.samples.image_path]
    preparation = images.preparation
    read = median(lambda i: read_picture(list_pictures(paths[i])[0]), count)
    windowed = median(lambda i: preparation(read_picture(images.info(i))), count)
    item = median(lambda i: images[i], count)
    print(f"{os.cpu_count()} cores, torch with {torch.get_num_threads()} threads")
    print(f"per image: read {read:.2f} ms, windowed {windowed:.2f} ms, resized {item:.2f} ms")
    for workers in (0, 1, 2):
        loader = DataLoader(images, BATCH, num_workers=workers, collate_fn=images.collate_fn, drop_last=True)
        batches = iter(loader)
        next(batches)
        started, seen = time.perf_counter(), 0
        for batch in batches:
            seen += len(batch.image)
        print(f"loader with {workers} workers: {seen / (time.perf_counter() - started):.0f} images/s")
    for workers in (0, 2):
        times = StepTimes()
        data.num_workers = workers
        with tempfile.TemporaryDirectory() as results:
            engine = Engine(max_steps=STEPS, default_root_dir=results, callbacks=[times], **QUIET)
            engine.fit(model, datamodule=data)
        step, wait = times.medians()
        print(f"training with {workers} workers: step {step:.0f} ms, {wait:.1f} ms of waiting for its batch")
    print(f"reading and windowing a batch of {BATCH}: {BATCH * windowed / step:.1%} of a step")


class StepTimes(Callback):
    """Milliseconds of the steps of a training, and of the waits between them."""

    def __init__(self) -> None:
        self.steps, self.waits, self.last = [], [], 0.0

    def on_train_batch_start(self, *_: object) -> None:
        now = time.perf_counter()
        self.waits.append(1000 * (now - self.last))
        self.last = now

    def on_train_batch_end(self, *_: object) -> None:
        now = time.perf_counter()
        self.steps.append(1000 * (now - self.last))
        self.last = now

    def medians(self) -> tuple[float, float]:
        return float(np.median(self.steps[2:])), float(np.median(self.waits[2:]))


if __name__ == "__main__":
    main()
