"""Exports to torch, ONNX and OpenVINO, as additions to anomalib's."""
