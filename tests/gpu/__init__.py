"""``python -m tests.gpu``: the measurements for a machine with a GPU, most important first, within some minutes.

``config`` has the settings, ``parts`` the measurements, ``runner`` runs one part after the other in separate processes
and keeps the report up to date, ``progress`` writes the progress of a training, ``precision`` compares scores.
"""

__all__: list[str] = []
