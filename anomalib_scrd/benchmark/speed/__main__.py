"""``python -m anomalib_scrd.benchmark.speed`` is ``python -m anomalib_scrd.benchmark speed``."""

__all__: list[str] = []

import sys

from anomalib_scrd.benchmark.speed.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
