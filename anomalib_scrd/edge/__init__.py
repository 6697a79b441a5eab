"""Exported models without torch and anomalib: scores, maps, a watched folder, a report, a gallery.

Importing it needs NumPy only. ``python -m anomalib_scrd.edge MODEL IMAGES --output FOLDER`` also needs Pillow and
OpenVINO or ONNX Runtime, and for medical formats the packages named by :mod:`anomalib_scrd.imaging`.
"""
