"""The command ``speed``: time of training steps and predictions, measured side by side.

``config`` describes the measurements, ``timing`` runs contenders in turn and summarises, ``training_step`` runs the
steps of a Lightning module; ``step`` and ``prediction`` measure, ``runner`` calls them, ``report`` writes the results.
"""

__all__: list[str] = []
