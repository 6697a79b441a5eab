"""Killed at any moment: no half files, nothing lost, nothing twice."""

import csv
import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from anomalib_scrd.edge.files import read_map
from anomalib_scrd.edge.journal import Journal, read_records, recorded
from anomalib_scrd.edge.records import Record
from tests.edge.conftest import ENVIRONMENT, command, edge, save_grey

IDENTITY = {"format": 1}


def test_killed_runs_end_with_the_results_of_one(xml_file: Path, tmp_path: Path) -> None:
    """Signal 9 at eight moments of a run over 600 files with maps."""
    images, output = tmp_path / "images", tmp_path / "results"
    for index in range(600):
        save_grey(images / f"{index:03d}.png", index % 255)
    (images / "000.png").unlink()  # of one value
    words = (xml_file, images, "--output", output, "--maps", "npz", "--quiet", "--on-error", "skip")
    moments, kills = random.Random(0), 0
    for _ in range(8):
        process = subprocess.Popen(command(words), env=ENVIRONMENT, stderr=subprocess.PIPE)
        journal, before = output / "scores.jsonl", _size(output / "scores.jsonl")
        end = time.monotonic() + 30
        while process.poll() is None and _size(journal) <= before:  # it computes
            assert time.monotonic() < end, "the run hangs"
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        for record in read_records(output):
            if record.map is not None:
                assert read_map(output / record.map).shape == (16, 16)
    assert kills >= 4
    assert edge(*words).returncode == 3  # 255 and 510 are images of one value
    records = read_records(output)
    assert len(records) == 599
    assert len({record.path for record in records}) == 599
    scored = [record for record in records if record.error is None]
    assert [record.score for record in scored] == pytest.approx([int(r.path[:3]) % 255 / 255 for r in scored])
    whole = [Record.from_json(line) for line in (output / "scores.jsonl").read_text().splitlines()]
    assert len([record for record in whole if record]) == 599  # none was scored twice
    with (output / "scores.csv").open(newline="") as file:
        assert sorted(row["path"] for row in csv.DictReader(file)) == sorted(record.path for record in records)
    assert not (output / ".partial").exists()


def test_a_killed_watch_loses_nothing(xml_file: Path, tmp_path: Path) -> None:
    """Signal 9 while files arrive, in pieces and by renaming; the next watch goes on."""
    images, output = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    whole = {f"{index:03d}.png": save_grey(tmp_path / "ready" / f"{index:03d}.png", index + 1) for index in range(60)}
    arriving = iter(whole.items())

    def arrive(count: int) -> None:
        for _, (name, path) in zip(range(count), arriving, strict=False):
            data = path.read_bytes()
            if int(name[:3]) % 2:
                (images / f".{name}").write_bytes(data)
                (images / f".{name}").rename(images / name)
                continue
            with (images / name).open("wb", buffering=0) as file:  # in two pieces
                file.write(data[: len(data) // 2])
                time.sleep(0.02)
                file.write(data[len(data) // 2 :])

    words = (xml_file, images, "--output", output, "--watch", "--quiet")
    for _ in range(3):
        before = len(read_records(output))
        process = subprocess.Popen(command(words), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        arrive(12)
        end = time.monotonic() + 60
        while len(read_records(output)) <= before:
            assert process.poll() is None
            assert time.monotonic() < end, "the watch hangs"
            time.sleep(0.002)
        arrive(5)
        process.kill()
        process.wait()
    arrive(60)
    process = subprocess.Popen(command(words), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(read_records(output)) < 60 and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 0
    records = [Record.from_json(line) for line in (output / "scores.jsonl").read_text().splitlines()]
    assert sorted(record.path for record in records if record) == sorted(whole)  # each once
    for record in read_records(output):
        assert record.score == pytest.approx((int(record.path[:3]) + 1) / 255), record


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def group(path: str, pictures: int = 1, **values: object) -> list[Record]:
    return [Record(path, index, pictures, score=0.25, size=7, mtime_ns=8, **values) for index in range(pictures)]


class TestJournal:
    def test_a_line_cut_anywhere_is_no_line(self, tmp_path: Path) -> None:
        """Every truncation of the last write: complete results stay, the truncated one is repeated."""
        folder = tmp_path / "whole"
        journal = Journal(folder, IDENTITY)
        journal.append(group("a"))
        first = (folder / "scores.jsonl").stat().st_size
        journal.append(group("volume", 3))
        journal.close()
        data = (folder / "scores.jsonl").read_bytes()
        for cut in range(first, len(data) - 1, 3):  # without the line end the last line would still be complete
            other = tmp_path / str(cut)
            other.mkdir()
            (other / "run.json").write_text(json.dumps(IDENTITY))
            (other / "scores.jsonl").write_bytes(data[:cut])
            again = Journal(other, IDENTITY)
            assert again.done("a", group("a")[0].signature) is False
            assert again.done("volume", group("volume", 3)[0].signature) is None
            again.append(group("volume", 3))
            again.close()
            assert [len(files) for files in recorded(other)] == [1, 3]
            assert len((other / "scores.csv").read_text().splitlines()) == 5

    def test_damage_in_the_middle_costs_only_what_it_hit(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, IDENTITY)
        for name in "abc":
            journal.append(group(name))
        journal.close()
        lines = (tmp_path / "scores.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "scores.jsonl").write_bytes(lines[0] + b"\0" * len(lines[1]) + b"\n" + lines[2])
        assert [record.path for record in read_records(tmp_path)] == ["a", "c"]

    def test_a_file_scored_again_counts_once(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path, IDENTITY)
        journal.append(group("a"))
        journal.append([Record("a", score=0.75, size=9, mtime_ns=9)])
        journal.close()
        assert [record.score for record in read_records(tmp_path)] == [0.75]

    def test_the_table_has_the_latest_records_only(self, tmp_path: Path) -> None:
        def scores() -> list[tuple[str, str]]:
            with (tmp_path / "scores.csv").open(newline="") as file:
                return [(row["path"], row["score"]) for row in csv.DictReader(file)]

        journal = Journal(tmp_path, IDENTITY)
        for name in ("a", "b"):
            journal.append(group(name, 2))
        journal.append([Record("a", score=0.75, size=9, mtime_ns=9)])
        journal.close()
        assert sorted(scores()) == [("a", "0.75"), ("b", "0.25"), ("b", "0.25")]
        with (tmp_path / "scores.csv").open("a") as file:
            file.write("of an earlier version\n")
        Journal(tmp_path, IDENTITY).close()
        assert sorted(scores()) == [("a", "0.75"), ("b", "0.25"), ("b", "0.25")]

    def test_only_the_latest_version_of_a_file_is_done(self, tmp_path: Path) -> None:
        """A file that is replaced and put back, with its size and time, is scored again; so is its failure noted."""
        first, second = Record("a", score=0.25, size=7, mtime_ns=8), Record("a", error="it is damaged", size=9)
        for _ in range(2):
            journal = Journal(tmp_path, IDENTITY)
            for record in (first, second, second):
                journal.append([record])
            assert journal.done("a", first.signature) is None
            journal.close()
            assert [record.error for record in read_records(tmp_path)] == ["it is damaged"]
        assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 4
        journal = Journal(tmp_path, IDENTITY)
        journal.append([first])
        assert journal.done("a", first.signature) is False
        journal.close()

    def test_an_unknown_folder_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "scores.jsonl").write_text("mine")
        with pytest.raises(ValueError, match=r"has scores.jsonl but no run.json"):
            Journal(tmp_path, IDENTITY)
        assert (tmp_path / "scores.jsonl").read_text() == "mine"
