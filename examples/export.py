"""Export a checkpoint to OpenVINO.

python examples/export.py CHECKPOINT FOLDER
"""

import sys

from anomalib_scrd import ScaleAwareCRD

checkpoint, folder = sys.argv[1:]

model = ScaleAwareCRD.load_from_checkpoint(checkpoint)
print("OpenVINO:", model.to_openvino(folder))
