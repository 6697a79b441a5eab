"""Score a folder of images with an OpenVINO file and write heat maps, in the folders that the images lie in.

python examples/predict_openvino.py MODEL.xml IMAGES OUTPUT
"""

import sys
from pathlib import Path

from anomalib.data.utils import get_image_filenames, read_image
from anomalib.deploy import OpenVINOInferencer
from anomalib.visualization.image import visualize_anomaly_map
from PIL import Image
from torchvision.transforms.v2.functional import resize

model, images, output = sys.argv[1:]

# float32: on processors with bfloat16 OpenVINO computes in that by default, and scores differ by up to 0.15.
inferencer = OpenVINOInferencer(model, config={"INFERENCE_PRECISION_HINT": "f32"})
height, width = (inferencer.input_blob.partial_shape[axis] for axis in (2, 3))
fixed = None if height.is_dynamic or width.is_dynamic else [height.get_length(), width.get_length()]

root = Path(images).resolve()
root = root if root.is_dir() else root.parent
for path in get_image_filenames(images):
    image = read_image(path, as_tensor=True)
    if fixed:  # as in training: with anti-aliasing, which an exported model leaves out
        image = resize(image, fixed, antialias=True)
    prediction = inferencer.predict(image.numpy().transpose(1, 2, 0))
    print(f"{prediction.pred_score.item():.4f}  {path}")
    heat = visualize_anomaly_map(prediction.anomaly_map.squeeze())
    original = Image.open(path).convert("RGB")
    target = (Path(output) / Path(path).resolve().relative_to(root)).with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.blend(original, heat.resize(original.size), 0.4).save(target)
