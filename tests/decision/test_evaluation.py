"""Undefined test metrics are NaN with a message; counts of labels."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC as ANOMALIB_AUROC
from anomalib.metrics import F1Score as AnomalibF1Score

from anomalib_scrd.decision.evaluation import AUROC, F1Score, describe_counts
from tests.models import build_engine, build_model


def batch(truth: list[int]) -> ImageBatch:
    count = len(truth)
    scores = torch.linspace(0.1, 0.9, count)
    return ImageBatch(
        image=torch.zeros(count, 3, 4, 4), pred_score=scores, pred_label=scores > 0.5, gt_label=torch.tensor(truth)
    )


@pytest.mark.parametrize("truth", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_one_class_has_no_auroc(truth: list[int]) -> None:
    metric = AUROC(fields=["pred_score", "gt_label"])
    metric.update(batch(truth))
    assert torch.isnan(metric.compute())
    theirs = ANOMALIB_AUROC(fields=["pred_score", "gt_label"])
    theirs.update(batch(truth))
    assert theirs.compute() == 0


def test_without_anomalies_there_is_no_f1() -> None:
    for truth, undefined in (([0, 0, 0, 0], True), ([1, 1, 1, 1], False), ([0, 1, 0, 1], False)):
        metric = F1Score(fields=["pred_label", "gt_label"])
        metric.update(batch(truth))
        assert bool(torch.isnan(metric.compute())) is undefined


@pytest.mark.parametrize("truth", [[0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0]])
def test_both_classes_give_anomalibs_numbers(truth: list[int]) -> None:
    for ours, theirs, fields in (
        (AUROC, ANOMALIB_AUROC, ["pred_score", "gt_label"]),
        (F1Score, AnomalibF1Score, ["pred_label", "gt_label"]),
    ):
        metrics = ours(fields=fields, prefix="image_"), theirs(fields=fields, prefix="image_")
        for metric in metrics:
            metric.update(batch(truth))
        assert metrics[0].compute() == metrics[1].compute()
        assert metrics[0].name == metrics[1].name


def test_counts_in_words() -> None:
    (both,) = describe_counts([[95, 5], [72, 120]])
    assert both == (
        "labels: 5 of 100 normal images are called anomalous (5.0%, 95 % interval 1.6% to 11.3%); "
        "120 of 192 anomalous images are found (62.5%, 95 % interval 55.2% to 69.4%)"
    )
    assert describe_counts([[10, 0], [0, 0]])[1] == "AUROC and F1 are undefined (nan): the test images are all normal."
    assert describe_counts([[0, 0], [1, 2]])[1] == "AUROC is undefined (nan): the test images are all anomalous."


def test_a_test_of_normal_images_alone(tiny_data: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, engine = build_model(), build_engine(tmp_path, max_steps=2)
    data = tiny_data(abnormal_dir=None, mask_dir=None, val_split_mode="none")
    with caplog.at_level(logging.INFO, logger="anomalib_scrd"):
        engine.fit(model, datamodule=data)
        results = engine.test(model, datamodule=data)[0]
    assert torch.isnan(torch.tensor(results["image_AUROC"]))
    assert torch.isnan(torch.tensor(results["image_F1Score"]))
    assert "AUROC and F1 are undefined (nan): the test images are all normal." in caplog.text
    assert "of 6 normal images are called anomalous" in caplog.text


def test_evidence_that_several_processes_have_joined() -> None:
    """torchmetrics turns the list of batches into one tensor, whose truth value is an error."""
    from anomalib_scrd.decision.evidence import EvidenceMetric

    metric = EvidenceMetric()
    metric.rows = torch.rand(3, 4)
    assert torch.equal(EvidenceMetric.compute(metric), metric.rows)
