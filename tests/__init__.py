"""Tests."""

import os

# OpenVINO and NNCF report each import and each conversion to a server, every time from a fork of the process. They do
# not in CI, which they recognise by this variable; so do the processes that tests start.
os.environ.setdefault("CI", "true")
