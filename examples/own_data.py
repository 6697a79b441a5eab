"""Train on your own folder: normal images in FOLDER/normal and, optionally, anomalous ones in FOLDER/defect.

python examples/own_data.py FOLDER [STEPS]
"""

import sys
from pathlib import Path

from anomalib.data import Folder
from anomalib.engine import Engine
from lightning import seed_everything

from anomalib_scrd import ScaleAwareCRD

folder = sys.argv[1]
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
seed_everything(0)

# Thresholds come from half of the test images or, without anomalous ones, from synthetic anomalies.
defects = (Path(folder) / "defect").is_dir()
data = Folder(
    name="mine",
    root=folder,
    normal_dir="normal",
    abnormal_dir="defect" if defects else None,
    val_split_mode="from_test" if defects else "synthetic",
    train_batch_size=16,
    num_workers=0,
    seed=0,
)
model = ScaleAwareCRD(backbone="tf_efficientnet_lite0")
engine = Engine(max_steps=steps)
engine.fit(model, datamodule=data)
if defects:
    print(engine.test(model, datamodule=data))
print("checkpoint:", engine.best_model_path)
