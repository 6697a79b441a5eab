"""The command ``speed``: what a training step and a prediction cost, beside what they must cost.

``config`` says what to measure, ``contenders`` builds the training steps, ``timing`` runs contenders in turn and
summarises, one module per section measures, ``report`` and ``figure`` write. A section is a module with a function
``measure(config) -> Section``; it is imported only when it is asked for.
"""

__all__: list[str] = []
