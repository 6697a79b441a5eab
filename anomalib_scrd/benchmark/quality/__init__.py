"""The command ``quality``: detection quality of models x data sets x seeds.

``config`` says what to run, ``splits`` divides the data, ``run`` trains and scores one model, ``runner`` goes through
all runs; ``results`` stores finished runs and tabulates them, ``report`` and ``figures`` write.
"""

__all__: list[str] = []
