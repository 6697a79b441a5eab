"""Score a folder of images with a checkpoint.

python examples/predict.py CHECKPOINT FOLDER
"""

import sys

from anomalib.data import PredictDataset
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from anomalib_scrd import ScaleAwareCRD

checkpoint, folder = sys.argv[1:]

# The checkpoint has all weights, including the teacher's: nothing is downloaded.
model = ScaleAwareCRD.load_from_checkpoint(checkpoint)
dataset = PredictDataset(folder)
loader = DataLoader(dataset, batch_size=8, collate_fn=dataset.collate_fn)
for batch in Engine().predict(model, dataloaders=loader) or []:
    for item in batch:
        label = "anomalous" if item.pred_label.item() else "normal"
        print(f"{item.pred_score.item():.4f}  {label:9s}  {item.image_path}")
