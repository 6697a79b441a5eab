"""Exported models on machines without torch and anomalib: scores, maps, a watched folder, a report, a gallery.

Importing it needs NumPy alone. ``python -m anomalib_scrd.edge MODEL IMAGES --output FOLDER`` needs Pillow and OpenVINO
or ONNX Runtime besides, and for medical formats what :mod:`anomalib_scrd.imaging` names.
"""
