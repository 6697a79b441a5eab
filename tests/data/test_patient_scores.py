"""Scores of patients: a table by hand, and the columns that are needed."""

import pandas as pd
import pytest

from anomalib_scrd.data import patient_scores


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
def test_how_many_count(top: int, score: float) -> None:
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
