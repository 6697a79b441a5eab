"""Imports each of the modules named by the arguments first, in a process of its own, then anomalib's models.

Where the system has a fork server, the processes begin with what is neither anomalib's nor the plugin's: three quarters
of the time.
"""

import importlib
import multiprocessing
import sys


def report(first: str) -> None:
    """Print what the model's name in anomalib leads to; an error ends this process alone, with its traceback."""
    assert not {"anomalib", "anomalib_scrd"} & set(sys.modules)
    importlib.import_module(first)
    sys.stdout.write(f"{first} {importlib.import_module('anomalib.models').ScaleAwareCRD.__name__}\n")


if __name__ == "__main__":
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["lightning.pytorch", "torch", "torchvision"])
    for name in sys.argv[1:]:
        process = context.Process(target=report, args=(name,))
        process.start()
        process.join()
