"""Command line: ``python -m tests.gpu``, from the repository's root."""

__all__ = ["load_config", "main"]

import shlex
import sys

from anomalib_scrd.benchmark.__main__ import parsed
from tests.gpu.config import GpuConfig
from tests.gpu.runner import run_gpu


def load_config(words: list[str]) -> GpuConfig:
    """Read the command line; ends with status 2 and a message if an argument is unknown or out of range."""
    return parsed(GpuConfig, "python -m tests.gpu", words)


def main(words: list[str] | None = None) -> int:
    """Run the parts; return 0 on success, else 1 (the report names the failures)."""
    words = list(sys.argv[1:] if words is None else words)
    return 0 if run_gpu(load_config(words), command=shlex.join(["python", "-m", "tests.gpu", *words])) else 1


if __name__ == "__main__":
    sys.exit(main())
