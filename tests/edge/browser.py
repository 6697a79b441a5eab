"""Pages in headless Chromium, where it is installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
    "--run-all-compositor-stages-before-draw",
)


def document(page: Path, script: str = "") -> str:
    """The page's HTML after its script has run, and after one more that is appended to it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    if script:
        text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
        page = page.with_name("changed.html")
        page.write_text(text, encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | {"HOME": profile},
        )
    assert "<body" in done.stdout, done.stderr
    return done.stdout
