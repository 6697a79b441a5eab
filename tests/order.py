"""Order of the files among the processes of pytest-xdist.

By default a process takes whole files, those with the most tests first. The longest ones have few tests: one that
begins last would leave the other processes idle.
"""

__all__: list[str] = []

from typing import Any

import pytest

# One process takes all of these: each process that had one would train and export the models of their fixtures.
_TOGETHER = "tests/export/"
_FIRST = (
    _TOGETHER,
    "tests/test_lightning_model.py",
    "tests/trust/test_repeat.py",
    "tests/trust/test_kill.py",
    "tests/gpu/",
    "tests/training/test_validation_times.py",
    "tests/integration/test_anomalib_own.py",
    "tests/integration/test_lookup.py",
    "tests/training/test_scale_weights.py",
    "tests/decision/test_post_processor.py",
    "tests/edge/test_against_training.py",
    "tests/trust/",
    "tests/data/",
    "tests/integration/",
    "tests/training/",
)
"""Begins of the names of the files that take longest, about in this order."""


def _place(item: pytest.Item) -> int:
    return next((place for place, name in enumerate(_FIRST) if item.nodeid.startswith(name)), len(_FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=_place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Files in this order, some of them as if they were one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _TOGETHER if nodeid.startswith(_TOGETHER) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)
