"""The command ``quality``: detection quality of models x data sets x seeds.

``config`` describes the runs, ``splits`` divides the data, ``run`` trains and scores one model, ``runner`` executes all
runs; ``results`` stores finished runs and tabulates them, ``report`` and ``figures`` write the outputs.
"""

__all__: list[str] = []
