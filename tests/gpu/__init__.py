"""``python -m tests.gpu``: what there is to measure on a machine with a GPU, most important first, within some minutes.

``config`` says how long and how large, ``parts`` what is run, ``runner`` runs one part after the other in processes of
their own and keeps the report up to date, ``progress`` writes down how far a training is,
``precision`` compares scores.
"""

__all__: list[str] = []
