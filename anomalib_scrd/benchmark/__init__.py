"""The benchmark: models x data sets x seeds under one protocol that never looks at the test set to choose anything.

``python -m anomalib_scrd.benchmark --config configs/benchmark/NAME.yaml`` runs it. Data flows one way: ``config``
says what to run, ``data`` makes the splits, ``run`` trains and scores one model, ``store`` keeps what is finished,
``runner`` goes through all runs, ``statistics`` summarises, ``report`` and ``figures`` write. Importing this package
loads neither torch nor anomalib: only the process that trains does.
"""

__all__: list[str] = []
