"""Scores of patients: a table by hand, and the columns that are needed."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from anomalib_scrd.data import patient_scores
from anomalib_scrd.data.items import MedicalBatch, MedicalItem
from anomalib_scrd.data.patient_scores import PatientScores
from tests.data.test_medical_folder import engine, grey, module, small_model, write_set


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_path": ["a", "b", "c", "d", "e", "f"],
            "patient": ["p", "p", "p", "q", "", None],
            "pred_score": [0.1, 0.9, 0.5, 0.6, 0.95, 0.2],
            "gt_label": [0, 1, 0, 0, 1, 0],
        }
    )


def test_the_mean_of_the_highest_scores() -> None:
    table = patient_scores(frame(), top=2)
    assert list(table.columns) == ["patient", "images", "pred_score", "gt_label"]
    expected = {"e": (1, 0.95, 1), "p": (3, 0.7, 1), "q": (1, 0.6, 0), "f": (1, 0.2, 0)}
    assert list(table.patient) == list(expected)
    for row, values in zip(table.itertuples(index=False), expected.values(), strict=True):
        assert (row.images, row.pred_score, row.gt_label) == pytest.approx(values)


@pytest.mark.parametrize(("top", "score"), [(1, 0.9), (3, 0.5), (50, 0.5)])
def test_number_of_scores_in_the_mean(top: int, score: float) -> None:
    table = patient_scores(frame(), top=top).set_index("patient")
    assert table.pred_score["p"] == pytest.approx(score)


def test_volumes_and_missing_truth() -> None:
    table = patient_scores(frame().drop(columns="gt_label").rename(columns={"patient": "volume"}), by="volume")
    assert list(table.columns) == ["volume", "images", "pred_score"]


def test_wrong_tables() -> None:
    with pytest.raises(ValueError, match=r"lacks the columns \['volume'\]; it has \['image_path', 'patient'"):
        patient_scores(frame(), by="volume")
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        patient_scores(frame(), top=0)


def test_images_of_one_name_are_kept_and_repeated_ones_are_not() -> None:
    """Page 1 of scan.tif and the file scan_0001.tif; the sampler of a distributed test repeats images."""

    def batch(samples: list[int], scores: list[float]) -> MedicalBatch:
        items = [
            MedicalItem(image=torch.zeros(3, 4, 4), image_path="scan_0001.tif", patient="", volume="", sample=sample)
            for sample in samples
        ]
        result = MedicalBatch.collate(items)
        result.pred_score = torch.tensor(scores)
        return result

    callback = PatientScores()
    for outputs in (batch([0, 1], [0.25, 0.5]), batch([1], [0.5])):
        callback.on_test_batch_end(None, None, outputs, None, 0)
    callback.on_test_batch_end(None, None, batch([1], [0.75]), None, 0, dataloader_idx=1)
    table = callback._table()
    assert list(table.pred_score) == [0.25, 0.5, 0.75]
    assert list(patient_scores(table.drop(columns="gt_label")).pred_score) == [0.75, 0.5, 0.25]


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, pd.DataFrame]:
    """Metrics, folder and image scores of a test on patients of two images and a volume."""
    root = tmp_path_factory.mktemp("patients")
    images = write_set(root / "set", lambda _: "dicom", lambda part, index: f"{part}{index // 2}")
    volume = np.stack([grey(index) for index in range(4)], axis=-1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), images / "bad/volume.nii")
    data = module(images, val_split_mode="none", test_split_ratio=0.4, patient_salt=root / "salt")
    runner, model = engine(root), small_model()
    metrics = runner.test(model, datamodule=data)[0]
    folder = Path(runner.trainer.default_root_dir)
    tables = {by: pd.read_csv(folder / f"{by}_scores.csv") for by in ("patient", "volume")}
    runner.predict(model, datamodule=data)
    rows = [
        {"patient": item.patient, "volume": item.volume, "pred_score": float(item.pred_score), "gt": int(item.gt_label)}
        for batch in runner.predict(model, datamodule=data)
        for item in batch
    ]
    return metrics, tables, pd.DataFrame(rows)


def test_a_test_scores_patients_and_volumes(tested: tuple[dict, dict, pd.DataFrame]) -> None:
    metrics, tables, scores = tested
    for by in ("patient", "volume"):
        table = tables[by]
        assert table.pred_score.is_monotonic_decreasing
        for name, group in scores[scores[by] != ""].groupby(by):
            row = table[table[by] == name].iloc[0]
            assert row.images == len(group)
            assert row.gt_label == group["gt"].max()
            assert row.pred_score == pytest.approx(group.pred_score.nlargest(3).mean(), rel=1e-4)
        anomalous, normal = (table.pred_score[table.gt_label == label] for label in (1, 0))
        wins = [(high > low) + 0.5 * (high == low) for high in anomalous for low in normal]
        assert metrics[f"{by}_AUROC"] == pytest.approx(sum(wins) / len(wins), abs=1e-6)
    assert len(tables["patient"]) == scores.patient[scores.patient != ""].nunique() + 4  # the volume has no patient
