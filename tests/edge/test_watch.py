"""A watched folder: new files are scored once, none half-written, and nothing is lost at a stop."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.edge.stopping import Stop
from anomalib_scrd.edge.watching import watch
from tests.edge.conftest import ENVIRONMENT, command, save_grey

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

Watch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def started() -> Iterator[Watch]:
    """Start the command line; what is still running at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: object) -> "subprocess.Popen[str]":
        running.append(
            subprocess.Popen(command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def scored(output: Path) -> list[str]:
    return [record.path for record in read_records(output) if record.error is None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_new_files_are_scored_each_once(
    number: signal.Signals, started: Watch, images: Path, xml_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    process = started(xml_file, images, "--output", output, "--watch")
    wait_for(lambda: len(scored(output)) == 9)
    save_grey(images / "new" / "first.png", 51)
    save_grey(tmp_path / "second.png", 102).rename(images / "new" / "second.png")
    wait_for(lambda: len(scored(output)) == 11)
    process.send_signal(number)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 0, printed
    lines = (output / "scores.jsonl").read_text().splitlines()
    assert len(lines) == 11
    assert {json.loads(line)["path"] for line in lines} >= {"new/first.png", "new/second.png"}
    assert len((output / "scores.csv").read_text().splitlines()) == 12


def test_a_file_is_left_alone_while_it_is_written(started: Watch, images: Path, xml_file: Path, tmp_path: Path) -> None:
    """Half a file of uncompressed TIFF or PPM could also be read as an image."""
    output = tmp_path / "results"
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(whole)
    data = whole.read_bytes()
    started(xml_file, images, "--output", output, "--watch")
    wait_for(lambda: len(scored(output)) == 9)
    with (images / "slow.png").open("wb", buffering=0) as file:
        for part in range(8):  # 4 s, with pauses of half a second
            file.write(data[part * len(data) // 8 : (part + 1) * len(data) // 8])
            time.sleep(0.5)
            assert "slow.png" not in {record.path for record in read_records(output)}
    wait_for(lambda: "slow.png" in scored(output))
    assert len(read_records(output)) == 10


def test_a_stopped_watch_goes_on_with_what_came_since(
    started: Watch, images: Path, xml_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    process = started(xml_file, images, "--output", output, "--watch")
    wait_for(lambda: len(scored(output)) == 9)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    save_grey(images / "later.png", 51)
    started(xml_file, images, "--output", output, "--watch")
    wait_for(lambda: "later.png" in scored(output))
    assert len((output / "scores.jsonl").read_text().splitlines()) == 10


def test_a_bad_file_does_not_end_it(started: Watch, images: Path, xml_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    process = started(xml_file, images, "--output", output, "--watch")
    wait_for(lambda: len(scored(output)) == 9)
    (images / "bad.png").write_bytes(b"no image")
    wait_for(lambda: len(read_records(output)) == 10)
    save_grey(images / "bad.png", 51)  # whole at last
    wait_for(lambda: "bad.png" in scored(output))
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 3
    assert printed.count("left out: bad.png: it is not an image file of a known format") == 1


class TestSource:
    def test_a_folder_that_is_away_for_a_moment(self, images: Path) -> None:
        source = watch(images, None, Stop(), settle=0, interval=0)
        assert len([file for file in _look(source) if file]) == 9
        images.rename(images.with_name("away"))
        assert _look(source) == []
        images.with_name("away").rename(images)
        shutil.rmtree(images / "good")
        assert len(_look(source)) == 3  # all files are yielded again; the results show which are done

    def test_settling(self, images: Path) -> None:
        source = watch(images, None, Stop(), settle=0.3, interval=0)
        assert _look(source) == []
        time.sleep(0.35)
        save_grey(images / "good" / "0.png", 255, (16, 17))
        assert len(_look(source)) == 8
        time.sleep(0.35)
        (file,) = _look(source)
        assert file.path == images / "good" / "0.png"
        assert _look(source) == []

    def test_the_time_for_scoring_does_not_lengthen_the_pause(
        self, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The source stands still while its files are scored: after a backlog it must not rest four times as long."""
        now, pauses = 0.0, []
        monkeypatch.setattr("anomalib_scrd.edge.watching.time.monotonic", lambda: now)
        stop = Stop()
        monkeypatch.setattr(stop, "wait", pauses.append)
        source = watch(images, None, stop, settle=0, interval=0.25)
        for _ in range(9 + 1):  # the files, and the end of the listing
            next(source)
            now += 60.0
        next(source)
        assert pauses == [0.25]

    def test_a_stop_ends_it(self, images: Path) -> None:
        stop = Stop()
        source = watch(images, None, stop, settle=0, interval=0)
        next(source)
        stop.signal = signal.SIGTERM
        assert list(source) == []


def _look(source: Iterator) -> list:
    """Files of one pass over the folder."""
    found = []
    while (file := next(source)) is not None:
        found.append(file)
    return found
