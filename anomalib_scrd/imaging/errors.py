"""The error of an image file that cannot be read."""

__all__ = ["UnreadableImageError", "missing_package", "reading"]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UnreadableImageError(OSError):
    """An image file that cannot be read, with the reason.

    The message is one string, so that the error can be pickled in a data loader's worker process.

    Attributes:
        path: The file, or None if only a message was given.
        reason: The reason. It never contains values of a file's header, which may identify a patient.
    """

    path: Path | None = None
    reason: str = ""

    @classmethod
    def of(cls, path: str | Path, reason: str) -> "UnreadableImageError":
        """Build the error of one file.

        Args:
            path: The file.
            reason: Why it cannot be read.

        Returns:
            The error.
        """
        error = cls(f"cannot read {str(path)!r}: {reason}")
        error.path, error.reason = Path(path), reason
        return error


def missing_package(path: str | Path, package: str) -> UnreadableImageError:
    """Build the error of a file whose format needs a package that is not installed.

    Args:
        path: The file.
        package: Name of the package.

    Returns:
        The error; its message names the extra that installs the package.
    """
    return UnreadableImageError.of(path, f"this format needs {package}; pip install 'anomalib-scrd[medical]'")


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Name the file in errors that a reader raises because of its content.

    Args:
        path: The file.

    Raises:
        UnreadableImageError: Instead of all errors other than ImportError. It has only the operating system's text or
            the type of the error, whose own text may quote a header.
    """
    try:
        yield
    except (UnreadableImageError, ImportError):
        raise
    except OSError as error:  # a file without permission, on a failing disk, removed meanwhile
        raise UnreadableImageError.of(path, error.strerror or f"{type(error).__name__}") from None
    except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
        raise UnreadableImageError.of(path, f"it is damaged or of a rare kind ({type(error).__name__})") from None
