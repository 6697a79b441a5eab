"""The command ``quality``: detection quality of models x data sets x seeds."""

__all__: list[str] = []
