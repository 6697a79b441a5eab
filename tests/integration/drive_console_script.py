"""Runs anomalib's console script several times in one process, as its importing takes longer than most of its runs.

    python -I drive_console_script.py SCRIPT COMMANDS

COMMANDS is a JSON file: a list of {"name", "arguments", "variables"}. What each run prints is separated by a line with
its name, and followed by one with its exit status. The process imports nothing of the plugin itself.
"""

import json
import os
import runpy
import sys
from pathlib import Path

script, commands = sys.argv[1:]
for command in json.loads(Path(commands).read_text(encoding="utf-8")):
    os.environ.update(command["variables"])
    sys.argv = [script, *command["arguments"]]
    status: object = 0
    sys.stdout.write(f"\n=== {command['name']}\n")
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except Exception as error:  # noqa: BLE001  the script would end with it
        status = f"{type(error).__name__}: {error}"
    sys.stdout.write(f"\n--- {status}\n")
    sys.stdout.flush()
