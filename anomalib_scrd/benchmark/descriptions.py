"""Entries of a benchmark's YAML files, and checks that name the user's entries."""

__all__ = ["Entry", "described", "require"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar


@dataclass
class Entry:
    """A class and its arguments.

    Args:
        class_path: Import path of the class, or only the name of one of anomalib's models or data modules.
        init_args: Its arguments. ``${oc.env:NAME}`` stands for an environment variable.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def described(cls: type[AnyEntry], entries: Mapping[str, Mapping[str, Any]], place: str) -> dict[str, AnyEntry]:
    """Read the entries of a mapping (not by jsonargparse, which reserves the key ``class_path``).

    Raises:
        ValueError: If an entry lacks an argument, or has an unknown or a wrong one; the message names the entry.
    """

    def read(name: str, arguments: Mapping[str, Any]) -> AnyEntry:
        try:
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            msg = f"{place}.{name}: {error}"
            raise ValueError(msg) from error

    require(bool(entries), place, entries, "at least one entry by name")
    return {name: read(name, arguments) for name, arguments in entries.items()}


def require(good: bool, name: str, value: object, allowed: str) -> None:
    """Raise ValueError with the argument, its value and what is allowed, unless ``good``."""
    if not good:
        msg = f"{name} must be {allowed}, got {value!r}"
        raise ValueError(msg)
