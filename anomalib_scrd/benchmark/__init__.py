"""The benchmark: detection quality and speed of models, under one protocol without selection on test images.

``python -m anomalib_scrd.benchmark [quality | speed] --config FILE`` runs it. ``baselines`` has models to compare with,
``models`` builds them, ``exported_models`` exports and opens them; the folders contain the two commands. Nothing
outside this package imports it, and importing it loads neither torch nor anomalib.
"""

__all__: list[str] = []
