"""Scores of patients and volumes on the runner equal those of the training, with the same pseudonyms."""

import csv
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from PIL import Image

from anomalib_scrd.data.patient_scores import patient_scores
from anomalib_scrd.edge.__main__ import main
from anomalib_scrd.edge.groups import grouped_scores, labels_of, write_groups
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.edge.records import Record
from anomalib_scrd.imaging import Pseudonyms
from tests.edge.conftest import FACTS, SIZE, build_openvino, save_grey
from tests.edge.test_medical import PATIENT, save_dicom


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_groups_are_those_of_the_training() -> None:
    rng = np.random.default_rng(0)
    names = [f"p{index}" for index in rng.integers(0, 9, 60)]
    scores = rng.random(60).tolist()
    records = [[Record(f"{i}.dcm", score=s, patient=n)] for i, (n, s) in enumerate(zip(names, scores, strict=True))]
    found = grouped_scores(records, "patient")
    expected = patient_scores(DataFrame({"patient": names, "pred_score": scores}))
    assert [group.name for group in found] == expected.patient.tolist()
    assert [group.pictures for group in found] == expected.images.tolist()
    np.testing.assert_allclose([group.score for group in found], expected.pred_score, rtol=1e-12)


def test_names_of_groups_are_no_formulas(tmp_path: Path) -> None:
    groups = grouped_scores(
        [[Record("=1+1.tif", index, 2, score=0.5, volume="=1+1.tif") for index in range(2)]], "volume"
    )
    write_groups(groups, tmp_path / "volumes.csv", "volume", None)
    (row,) = table(tmp_path / "volumes.csv")
    assert row["volume"] == "'=1+1.tif"


def test_a_file_that_comes_twice_counts_once() -> None:
    first = [Record("a", picture=index, pictures=2, score=0.9, volume="a") for index in range(2)]
    again = [Record("a", score=0.1, volume="a")]
    failed = [Record("b", score=0.5, volume="b")], [Record("b", error="gone")]
    (group,) = grouped_scores([first, *failed, again], "volume")
    assert group == ("a", 1, 0.1)
    assert grouped_scores([[Record("c", score=0.3)]], "volume") == []


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([False, False], False),
        ([False, True], True),
        ([None, True], True),
        ([False, None], None),
        ([None, False], None),
    ],
)
def test_truth_of_a_group(labels: list, expected: bool | None) -> None:
    records = [Record("a", score=0.1, patient="p"), Record("b", score=0.1, patient="p")]
    assert labels_of(records, labels, "patient") == {"p": expected}


class TestRun:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        window = {"mode": "values", "limits": [0.0, 4000.0], "eight_bit": [0.0, 255.0]}
        return build_openvino(tmp_path / "deep.xml", FACTS | {"window": window})

    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        """Two files of one patient, one of another who has none in the header, and a file of four frames."""
        for name, values in (("a", [400]), ("b", [3600]), ("frames", [100, 2000, 2400, 2800])):
            frames = np.full((len(values), SIZE, SIZE), 0)
            frames[:, 2, 3] = np.array(values) + 100  # what the rescale intercept takes back
            save_dicom(tmp_path / "images" / f"{name}.dcm", frames)
        save_grey(tmp_path / "images" / "plain.png", 200)
        return tmp_path / "images"

    def test_volumes_need_no_salt_and_patients_do(self, model: Path, images: Path, tmp_path: Path) -> None:
        output = tmp_path / "results"
        assert main([str(model), str(images), "--output", str(output)]) == 0
        (volume,) = table(output / "volumes.csv")
        assert volume["volume"] == "frames.dcm"
        assert volume["pictures"] == "4"
        assert float(volume["score"]) == pytest.approx((2000 + 2400 + 2800) / 3 / 4000, rel=1e-5)
        assert volume["anomalous"] == "True"
        assert not (output / "patients.csv").exists()
        assert all(record.patient is None for record in read_records(output))

    def test_patients_have_the_pseudonyms_of_the_training(self, model: Path, images: Path, tmp_path: Path) -> None:
        output, salt = tmp_path / "results", tmp_path / "salt"
        assert main([str(model), str(images), "--output", str(output), "--salt", str(salt)]) == 0
        (patient,) = table(output / "patients.csv")
        assert patient["patient"] == Pseudonyms(salt).of(PATIENT[1])
        assert patient["pictures"] == "6"
        assert float(patient["score"]) == pytest.approx((3600 + 2800 + 2400) / 3 / 4000, rel=1e-5)
        rows = table(output / "scores.csv")
        assert {row["patient"] for row in rows} == {patient["patient"], ""}
        for path in output.rglob("*"):
            content = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
            assert not any(part.encode() in content for value in PATIENT for part in value.split("^"))

    def test_tables_grow_with_what_comes_later(self, model: Path, images: Path, tmp_path: Path) -> None:
        output, salt = tmp_path / "results", tmp_path / "salt"
        words = [str(model), str(images), "--output", str(output), "--salt", str(salt), "--quiet"]
        assert main(words) == 0
        frames = np.zeros((1, SIZE, SIZE))
        frames[0, 2, 3] = 4000
        save_dicom(images / "later.dcm", frames)
        assert main(words) == 0
        (patient,) = table(output / "patients.csv")
        assert patient["pictures"] == "7"
        assert float(patient["score"]) == pytest.approx((3900 + 3600 + 2800) / 3 / 4000, rel=1e-5)


def test_report_knows_normal_slices_and_volumes(tmp_path: Path) -> None:
    """A mask tells which slices of an anomalous volume are normal, and volumes have an AUROC of their own."""
    model = build_openvino(tmp_path / "model.xml")
    for name, values in (("normal/a", [20, 40, 60]), ("normal/b", [30, 30, 90]), ("bad/c", [10, 250, 240])):
        pages = np.zeros((3, SIZE, SIZE), np.uint8)
        pages[:, 4, 5] = values
        path = tmp_path / "images" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *others = (Image.fromarray(page) for page in pages)
        first.save(path, save_all=True, append_images=others)
        if name == "bad/c":
            (tmp_path / "masks" / "bad").mkdir(parents=True)
            first, *others = (Image.fromarray(page) for page in (pages > 200).astype(np.uint8) * 255)
            first.save(tmp_path / "masks" / "bad" / "c.tif", save_all=True, append_images=others)
    words = ["report", str(model), str(tmp_path / "images"), "--output", str(tmp_path / "results"), "--seconds", "0"]
    assert main([*words, "--masks", str(tmp_path / "masks"), "--quiet"]) == 0
    text = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "normal (7)" in text
    assert "anomalous (2)" in text
    assert "<td>volume AUROC</td><td>1.000" in text
    assert "3 volumes, by the mean of their three highest" in text
