"""The command ``quality``: detection quality of models x data sets x seeds.

``config`` says what to run, ``splits`` divides the data, ``run`` trains and scores one model, ``store`` keeps what is
finished, ``runner`` goes through all runs; ``results`` makes tables of them, ``report`` and ``figures`` write.
"""

__all__: list[str] = []
