"""Scores of patients and volumes from scores of their images."""

__all__ = ["patient_scores"]

from typing import Literal

import pandas as pd
from pandas import DataFrame


def patient_scores(
    frame: DataFrame,
    by: Literal["patient", "volume"] = "patient",
    top: int = 3,
    score: str = "pred_score",
    label: str = "gt_label",
) -> DataFrame:
    """Score patients, or volumes, by the mean of their highest image scores.

    A lesion shows in a few slices: the mean over all of them would drown it, and the highest alone is the noisiest.

    Args:
        frame: A row per image with the columns ``by`` and ``score``, and ``label`` where the truth is known.
        by: Column of the pseudonyms. Images without one ("" or missing) count by themselves, by their image_path.
        top: Number of the highest scores whose mean is taken, 1 or more; all of them where there are fewer.
        score: Column of the image scores, larger for anomalous images.
        label: Column of the truth, 0 or 1; a patient is anomalous if one image is.

    Returns:
        A row per patient or volume, the highest score first: ``by``, images (their number), ``score``, and ``label``
        where the frame has it.

    Raises:
        ValueError: If a column is missing, or top is below 1.
    """
    missing = [column for column in (by, score) if column not in frame]
    if missing:
        msg = f"the table of scores lacks the columns {missing}; it has {list(frame.columns)}"
        raise ValueError(msg)
    if top < 1:
        msg = f"top must be at least 1, got {top}"
        raise ValueError(msg)
    names = frame[by].fillna("").astype(str)
    alone = (
        frame["image_path"].astype(str) if "image_path" in frame else pd.Series(frame.index.astype(str), frame.index)
    )
    groups = frame.assign(**{by: names.where(names != "", alone.astype(str))}).groupby(by, sort=False)
    columns = {
        "images": groups.size(),
        score: groups[score].apply(lambda values: float(values.nlargest(top).mean())),
    }
    if label in frame:
        columns[label] = groups[label].max().astype(int)
    return DataFrame(columns).reset_index().sort_values(score, ascending=False, ignore_index=True)
