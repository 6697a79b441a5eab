"""Wall time of the main job relative to that of its training steps alone.

python examples/time_main_job.py FOLDER [--images 48 500] [--steps 2000] [--size 256] [--workers 0]

FOLDER has normal images. For each number of images the script runs the main job on the first of them: ``Engine.fit``
with held-out images, validations, checkpoints and data loading. It prints the wall time, the median time of a step in
the same run (pre-processing, forward, backward and optimiser, without data loading, validation and writing) times the
number of steps, and the ratio of the two.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from anomalib.data import Folder
from anomalib.data.utils import get_image_filenames
from anomalib.engine import Engine
from lightning import seed_everything
from lightning.pytorch import Callback

from anomalib_scrd import ScaleAwareCRD

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--images", type=int, nargs="+", default=[48, 500])
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--size", type=int, default=256)
parser.add_argument("--workers", type=int, default=0)
options = parser.parse_args()


class Clock(Callback):
    """Times each training step, and counts validations."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.validations = 0
        self.start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)

    def on_validation_end(self, *_: Any) -> None:
        self.validations += 1


print("| images | steps | wall, s | step, ms | steps alone, s | ratio | validations |")
print("|---|---|---|---|---|---|---|")
for count in options.images:
    seed_everything(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for path in sorted(get_image_filenames(options.folder))[:count]:
            (folder / Path(path).name).symlink_to(Path(path).resolve())
        data = Folder("timed", folder, val_split_mode="none", train_batch_size=16, num_workers=options.workers, seed=0)
        model = ScaleAwareCRD(
            backbone="tf_efficientnet_lite0",
            pre_processor=ScaleAwareCRD.configure_pre_processor((options.size, options.size)),
        )
        clock = Clock()
        engine = Engine(max_steps=options.steps, default_root_dir=scratch, callbacks=[clock], logger=False)
        start = time.perf_counter()
        engine.fit(model, datamodule=data)
        wall = time.perf_counter() - start
    step = statistics.median(clock.seconds)
    alone = step * len(clock.seconds)
    cells = [count, len(clock.seconds), f"{wall:.1f}", f"{1000 * step:.1f}", f"{alone:.1f}", f"{wall / alone:.3f}"]
    print("|", " | ".join(map(str, [*cells, clock.validations])), "|", flush=True)
