"""The command ``speed``: what training steps and predictions cost, measured side by side.

``config`` says what to measure, ``timing`` runs contenders in turn and summarises, ``training_step`` makes the steps of
a Lightning module; ``step`` and ``prediction`` measure, ``runner`` calls them, ``report`` writes.
"""

__all__: list[str] = []
