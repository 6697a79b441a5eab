"""Names in an OpenVINO file that its users can rely on."""

__all__ = ["keep_names_of_outputs"]

from pathlib import Path
from xml.etree import ElementTree as ET


def keep_names_of_outputs(path: Path) -> None:
    """Take the names of all tensors but inputs and outputs out of an OpenVINO file.

    Where the size of the input is fixed, batch included, OpenVINO drops the last operation of the post-processing when
    it compiles the model, and the output carries the names of the tensors before it as well as its own. anomalib's
    ``OpenVINOInferencer`` takes any one of them, another in each process.

    Args:
        path: The .xml file; changed in place.
    """
    tree = ET.parse(path)  # noqa: S314
    layers = tree.findall(".//layer")
    outputs = {name for layer in layers for name in layer.get("output_names", "").split(",")}
    for layer in layers:
        if layer.get("type") == "Parameter":
            continue
        for port in layer.findall("./output/port"):
            if not outputs & set(port.get("names", "").split(",")):
                port.attrib.pop("names", None)
    tree.write(path)
