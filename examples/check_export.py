"""Compare the scores of an OpenVINO file with those of the checkpoint that it was exported from.

python examples/check_export.py CHECKPOINT MODEL.xml IMAGES
"""

import sys

import torch
from anomalib.data.utils import get_image_filenames, read_image
from anomalib.deploy import OpenVINOInferencer

from anomalib_scrd import ScaleAwareCRD

checkpoint, exported, images = sys.argv[1:]

model = ScaleAwareCRD.load_from_checkpoint(checkpoint, map_location="cpu").eval()
inferencer = OpenVINOInferencer(exported, config={"INFERENCE_PRECISION_HINT": "f32"})

differences = []
for path in get_image_filenames(images):
    with torch.no_grad():
        expected = model(read_image(path, as_tensor=True)[None]).pred_score.item()
    found = inferencer.predict(path).pred_score.item()
    differences.append(abs(found - expected))

print(f"largest difference of {len(differences)} scores: {max(differences):.1e}")
if max(differences) > 1e-3:
    sys.exit("the scores of the exported model differ from those of the trained one")
