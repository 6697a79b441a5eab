"""Score a folder of images with an OpenVINO file and write heat maps, in the same subfolders as the images.

python examples/predict_openvino.py MODEL.xml IMAGES OUTPUT
"""

import sys
from pathlib import Path

from anomalib.data.utils import get_image_filenames
from anomalib.deploy import OpenVINOInferencer
from anomalib.visualization.image import visualize_anomaly_map
from PIL import Image

model, images, output = sys.argv[1:]

# float32: on processors with bfloat16 OpenVINO uses bfloat16 by default, and scores differ by up to 0.15.
inferencer = OpenVINOInferencer(model, config={"INFERENCE_PRECISION_HINT": "f32"})

root = Path(images).resolve()
root = root if root.is_dir() else root.parent
for path in get_image_filenames(images):
    prediction = inferencer.predict(path)
    print(f"{prediction.pred_score.item():.4f}  {path}")
    heat = visualize_anomaly_map(prediction.anomaly_map.squeeze())
    original = Image.open(path).convert("RGB")
    target = (Path(output) / Path(path).resolve().relative_to(root)).with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.blend(original, heat.resize(original.size), 0.4).save(target)
