"""Checks of what a benchmark is told to do, by the names that a user has written."""

__all__ = ["described", "require"]

from collections.abc import Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def require(good: bool, name: str, value: object, allowed: str) -> None:
    """Raise ValueError, naming the argument, its value and what is allowed, unless it is good."""
    if not good:
        msg = f"{name} must be {allowed}, got {value!r}"
        raise ValueError(msg)


def described(cls: type[Entry], arguments: Mapping[str, Any], place: str) -> Entry:
    """Make a dataclass of an entry of a YAML file (not by jsonargparse, which owns the word ``class_path``).

    Raises:
        ValueError: If the dataclass lacks or refuses an argument; the message begins with ``place``.
    """
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        msg = f"{place}: {error}"
        raise ValueError(msg) from error
