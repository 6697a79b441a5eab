"""Thresholds in training, checkpoints, later changes, exports; labels and outlines."""

import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.decision.__main__ import change_rate
from anomalib_scrd.decision.post_processor import CalibratedPostProcessor
from anomalib_scrd.decision.thresholds import share_interval, threshold_by_rate, threshold_scale
from anomalib_scrd.training.held_out import HeldOut
from tests.models import build_engine, build_model

# With more, a training takes several times as long.
SMALL = {"layers": ["layer1", "layer2"], "pre_processor": ScaleAwareCRD.configure_pre_processor((32, 32))}
NUMBERS = ("_image_threshold", "_pixel_threshold", "image_scale", "pixel_scale")


def numbers(processor: CalibratedPostProcessor) -> list[float]:
    return [getattr(processor, name).item() for name in NUMBERS]


def raw(model: ScaleAwareCRD, dataset: object) -> InferenceBatch:
    """Raw predictions of a dataset, one image at a time."""
    model.eval()
    with torch.no_grad():
        parts = [model.model(model.pre_processor.transform(item.image[None])) for item in dataset]
    return InferenceBatch(
        pred_score=torch.cat([part.pred_score for part in parts]),
        anomaly_map=torch.cat([part.anomaly_map for part in parts]),
    )


def held_out_scores(model: ScaleAwareCRD) -> torch.Tensor:
    """Scores for thresholds: with few images, not only those by the weights that were fitted to them."""
    scores, left_out = raw(model, model.held_out.dataset).pred_score, model.held_out.left_out_scores
    assert (left_out is None) == (len(scores) == 2)  # one image has no spread
    return scores if left_out is None else (scores + left_out) / 2


@pytest.fixture
def trained(tiny_data: Callable, tmp_path: Path) -> Callable:
    def train(post_processor: object = True, share: float = 0.25, **data: object) -> tuple:
        model = build_model(**SMALL, post_processor=post_processor)
        model.held_out = HeldOut(share)
        engine = build_engine(tmp_path / "trained", max_steps=6)
        module = tiny_data(**data)
        engine.fit(model, datamodule=module)
        return model, engine, module

    return train


@pytest.mark.parametrize("split", ["synthetic", "none"])
def test_without_real_anomalies_thresholds_are_those_of_unseen_normal_images(split: str, trained: Callable) -> None:
    model, _, data = trained(abnormal_dir=None, mask_dir=None, val_split_mode=split, val_split_ratio=0.34)
    processor = model.post_processor
    assert processor.false_alarm_rate == 0.05
    normal = raw(model, model.held_out.dataset)
    scores, maps = held_out_scores(model), normal.anomaly_map.flatten(1)
    if split == "synthetic":
        images = [item for item in data.val_data if not item.gt_label]
        assert 0 < len(images) < len(data.val_data)
        more = raw(model, images)
        scores, maps = torch.cat([scores, more.pred_score]), torch.cat([maps, more.anomaly_map.flatten(1)])
    scores, peaks, levels = scores.numpy(), maps.amax(1).numpy(), maps.median(1).values.numpy()
    image, pixel = threshold_by_rate(scores, 0.05), threshold_by_rate(peaks, 0.05)
    expected = [image, pixel, threshold_scale(image, scores), threshold_scale(pixel, levels)]
    assert numbers(processor) == pytest.approx(expected, rel=1e-4)
    assert f"of {len(scores)} normal images" in processor.describe()
    assert "extrapolated, because this rate needs 19 images" in processor.describe()


def test_real_anomalies_give_the_best_f1(trained: Callable) -> None:
    model, _, data = trained()
    processor = model.post_processor
    assert processor.false_alarm_rate is None
    predictions = raw(model, data.val_data)
    truth = np.array([int(item.gt_label) for item in data.val_data])
    scores = predictions.pred_score.numpy()

    def f1(threshold: float) -> float:
        called = scores > threshold
        return 2 * (called & (truth == 1)).sum() / (called.sum() + truth.sum())

    best = max(f1(threshold) for threshold in [*scores, scores.min() - 1])
    assert f1(processor.image_threshold.item()) == pytest.approx(best)
    # a new scale and a threshold that no image lies on
    assert np.abs(scores - processor.image_threshold.item()).min() > 0
    assert len(processor.normal_evidence) == 3  # the validation set is the test set here: the held-out ones alone


def test_a_rate_that_is_asked_for_wins_over_the_best_f1(trained: Callable) -> None:
    model, _, _ = trained(CalibratedPostProcessor(0.2))
    assert model.post_processor.false_alarm_rate == 0.2
    scores = held_out_scores(model).numpy()
    assert model.post_processor.image_threshold.item() == pytest.approx(threshold_by_rate(scores, 0.2), rel=1e-4)


def test_no_masks_no_image_threshold_on_the_maps(trained: Callable) -> None:
    """anomalib takes the image threshold for pixels where there are no masks."""
    model, engine, data = trained(mask_dir=None)
    processor = model.post_processor
    peaks = raw(model, model.held_out.dataset).anomaly_map.flatten(1).amax(1).numpy()
    assert processor.pixel_threshold.item() == pytest.approx(threshold_by_rate(peaks, 0.05), rel=1e-4)
    assert processor.pixel_threshold != processor.image_threshold
    for batch in engine.predict(model, datamodule=data):
        assert torch.equal(batch.pred_mask.flatten(1).any(1), batch.pred_label)


def test_test_predict_and_forward_agree(trained: Callable) -> None:
    model, engine, data = trained(val_split_mode="none")
    predictions = engine.predict(model, datamodule=data)
    model.eval()
    for batch in predictions:
        images = torch.stack(
            [data.test_data[list(data.test_data.samples.image_path).index(path)].image for path in batch.image_path]
        )
        with torch.no_grad():
            whole = model(images)
        torch.testing.assert_close(whole.pred_score, batch.pred_score)
        torch.testing.assert_close(whole.anomaly_map.flatten(1), batch.anomaly_map.flatten(1))
        assert torch.equal(whole.pred_label, batch.pred_label)
        assert torch.equal(whole.pred_mask.flatten(1), batch.pred_mask.flatten(1))


def test_a_rate_is_changed_without_training(trained: Callable, tmp_path: Path) -> None:
    model, engine, _ = trained(val_split_mode="none")
    path = engine.best_model_path
    scores = model.post_processor.normal_evidence[:, 0].numpy()
    expected = threshold_by_rate(scores, 0.3)
    before = numbers(model.post_processor)

    model.post_processor.false_alarm_rate = 0.3  # by attribute
    changed = numbers(model.post_processor)
    assert changed[0] == pytest.approx(expected, rel=1e-5)
    assert changed != before

    loaded = build_model(**SMALL, post_processor=CalibratedPostProcessor(0.3))  # by argument beside a checkpoint
    other = build_engine(tmp_path / "predict")
    other.predict(loaded, ckpt_path=path, data_path=next(iter(model.held_out.dataset.samples.image_path)))
    assert numbers(loaded.post_processor) == pytest.approx(changed, rel=1e-6)

    line = change_rate(path, 0.3, tmp_path / "changed.ckpt")  # in the checkpoint
    assert "a false-alarm rate of 0.3" in line
    again = ScaleAwareCRD.load_from_checkpoint(tmp_path / "changed.ckpt")
    assert numbers(again.post_processor) == pytest.approx(changed, rel=1e-6)
    assert again.post_processor.false_alarm_rate == 0.3
    untouched = ScaleAwareCRD.load_from_checkpoint(path)
    assert numbers(untouched.post_processor) == pytest.approx(before, rel=1e-6)
    assert untouched.post_processor.false_alarm_rate == 0.05


def test_the_command_that_changes_a_rate(trained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine, _ = trained(val_split_mode="none")
    command = [sys.executable, "-m", "anomalib_scrd.decision", engine.best_model_path, "0.4"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert "a false-alarm rate of 0.4" in result.stdout
    assert ScaleAwareCRD.load_from_checkpoint(engine.best_model_path).post_processor.false_alarm_rate == 0.4
    monkeypatch.setattr(sys, "argv", ["decision", engine.best_model_path, "4"])
    with pytest.raises(SystemExit) as refused:  # in this process, which has imported everything
        runpy.run_module("anomalib_scrd.decision", run_name="__main__")
    # Python prints it without a traceback, and ends with status 1
    assert refused.value.code == "error: false_alarm_rate must be in (0, 1), got 4.0"


def test_validate_finds_thresholds_from_the_given_images(
    trained: Callable, tmp_path: Path, tiny_data: Callable
) -> None:
    model, _, _ = trained(val_split_mode="none")
    data = tiny_data(abnormal_dir=None, mask_dir=None, normal_test_dir="test/good")
    engine = build_engine(tmp_path / "validate")
    engine.validate(model, datamodule=data)
    scores = raw(model, data.val_data).pred_score.numpy()
    assert len(model.post_processor.normal_evidence) == 6
    assert model.post_processor.image_threshold.item() == pytest.approx(threshold_by_rate(scores), rel=1e-4)


def test_there_are_no_thresholds_without_normal_images(
    tiny_data: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model()
    data = tiny_data()
    data.setup()
    engine = build_engine(tmp_path, max_steps=2)
    engine.fit(model, train_dataloaders=data.train_dataloader())
    processor = model.post_processor
    assert not processor.has_thresholds
    assert processor.describe().startswith("none")
    batch = engine.predict(model, datamodule=data)[0]
    assert batch.pred_label is None
    assert batch.pred_mask is None
    torch.testing.assert_close(batch.pred_score, raw(model, list(data.test_data)[: len(batch.pred_score)]).pred_score)
    results = engine.test(model, datamodule=data)[0]
    assert 0 <= results["image_AUROC"] <= 1


def test_scores_that_are_not_finite_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    processor = CalibratedPostProcessor()
    evidence = np.random.default_rng(0).uniform(1, 2, (30, 3)).astype(np.float32)
    evidence[3, 0] = np.nan
    processor._set(evidence)
    assert processor.image_threshold.item() == pytest.approx(threshold_by_rate(np.delete(evidence[:, 0], 3)))
    assert "1 of 30 normal images have scores that are not finite" in caplog.text


def test_a_checkpoint_of_anomalibs_post_processor_loads(tiny_data: Callable, tmp_path: Path) -> None:
    model = build_model(**SMALL, post_processor=PostProcessor())
    engine = build_engine(tmp_path, max_steps=2)
    engine.fit(model, datamodule=tiny_data())
    loaded = ScaleAwareCRD.load_from_checkpoint(engine.best_model_path)
    assert loaded.post_processor.image_threshold == model.post_processor.image_threshold
    assert np.isfinite(numbers(loaded.post_processor)).all()
    with pytest.raises(ValueError, match=r"false_alarm_rate 0.1 needs the scores of normal images"):
        loaded.post_processor.false_alarm_rate = 0.1
    with pytest.raises(ValueError, match=r"holds no scores of normal images"):
        change_rate(engine.best_model_path, 0.1)


@pytest.mark.parametrize("arguments", [{"false_alarm_rate": 1.0}, {"image_sensitivity": 2}, {"pixel_sensitivity": -1}])
def test_arguments_out_of_range_are_refused_by_name(arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be in"):
        CalibratedPostProcessor(**arguments)


def _filled(**arguments: object) -> CalibratedPostProcessor:
    processor = CalibratedPostProcessor(**arguments)
    evidence = np.random.default_rng(0).uniform([1, 4, 1], [2, 6, 2], (40, 3)).astype(np.float32)
    processor._set(evidence)
    return processor


def test_raw_scores_have_the_same_labels_and_outlines() -> None:
    rng = np.random.default_rng(1)
    predictions = InferenceBatch(
        pred_score=torch.from_numpy(rng.uniform(0, 4, 50).astype(np.float32)),
        anomaly_map=torch.from_numpy(rng.uniform(0, 8, (50, 1, 4, 4)).astype(np.float32)),
    )
    calibrated, plain = _filled()(predictions), _filled(enable_normalization=False)(predictions)
    assert torch.equal(plain.pred_score, predictions.pred_score)
    assert torch.equal(plain.pred_label, calibrated.pred_label)
    assert torch.equal(plain.pred_mask, calibrated.pred_mask)
    assert 0 < plain.pred_label.sum() < 50
    unlabelled = _filled(enable_thresholding=False)(predictions)
    assert unlabelled.pred_label is None
    assert torch.equal(unlabelled.pred_score, calibrated.pred_score)


def test_sensitivity_moves_the_label() -> None:
    scores = torch.linspace(0, 4, 200)
    batch = InferenceBatch(pred_score=scores, anomaly_map=torch.zeros(200, 1, 2, 2))
    counts = [_filled(image_sensitivity=value)(batch).pred_label.sum().item() for value in (0.2, 0.5, 0.8)]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("normalised", [True, False])
def test_thresholds_are_those_of_the_outputs(normalised: bool) -> None:
    """The label and the outline follow from what is returned, with any sensitivity."""
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.uniform(0, 4, 50).astype(np.float32))
    maps = torch.from_numpy(rng.uniform(0, 8, (50, 1, 4, 4)).astype(np.float32))
    processor = _filled(enable_normalization=normalised, image_sensitivity=0.3, pixel_sensitivity=0.7)
    found = processor(InferenceBatch(pred_score=scores, anomaly_map=maps))
    image, pixel = processor.output_thresholds
    assert torch.equal(found.pred_label, found.pred_score > image)
    around = processor.map_around_half(found.anomaly_map)
    assert torch.equal(around > 0.5, found.anomaly_map > pixel)
    assert 0 < found.pred_label.sum() < 50
    assert 0 < (around > 0.5).sum() < around.numel()
    assert np.isnan(CalibratedPostProcessor().output_thresholds).all()
    extreme = _filled(enable_normalization=normalised, image_sensitivity=1.0, pixel_sensitivity=0.0)
    assert np.isfinite(extreme.output_thresholds).all()  # JSON has no infinity


def test_thresholds_from_the_test_set_are_warned_of(
    tiny_data: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model(scoring={"held_out": 0.0}, post_processor=CalibratedPostProcessor(false_alarm_rate=0.2))
    build_engine(tmp_path, max_steps=1).fit(model, datamodule=tiny_data(val_split_mode="same_as_test"))
    assert "The threshold comes from normal images of the test set" in caplog.text


def test_a_score_is_made_of_the_map_where_there_is_none() -> None:
    batch = InferenceBatch(anomaly_map=torch.rand(3, 1, 4, 4))
    assert _filled()(batch).pred_score.shape == (3,)
    with pytest.raises(ValueError, match="got neither"):
        _filled()(InferenceBatch())


def test_it_is_pickled_and_moved_with_the_model() -> None:
    processor = pickle.loads(pickle.dumps(_filled()))
    assert len(processor.normal_evidence) == 40
    again = CalibratedPostProcessor()
    again.load_state_dict(processor.state_dict())
    assert numbers(again) == numbers(processor)
    assert torch.equal(again.normal_evidence, processor.normal_evidence)


def test_a_resumed_fit_keeps_the_rate_that_was_asked_for(
    trained: Callable, tiny_data: Callable, tmp_path: Path
) -> None:
    _, engine, _ = trained(CalibratedPostProcessor(0.3), val_split_mode="none")
    loaded = ScaleAwareCRD.load_from_checkpoint(engine.best_model_path)
    build_engine(tmp_path / "more", max_steps=2).fit(loaded, datamodule=tiny_data(val_split_mode="none"))
    assert loaded.post_processor.false_alarm_rate == 0.3


def test_a_second_fit_on_other_data_has_thresholds_of_its_own(
    trained: Callable, tiny_data: Callable, tmp_path: Path
) -> None:
    model, _, _ = trained(val_split_mode="none")
    first = numbers(model.post_processor)
    data: Folder = tiny_data(normal_dir="test/good", normal_test_dir="train/good", val_split_mode="none")
    build_engine(tmp_path / "second", max_steps=3).fit(model, datamodule=data)
    assert numbers(model.post_processor) != first
    assert share_interval(0, len(model.post_processor.normal_evidence))[0] == 0


def test_interrupted_validations_leave_nothing_behind(trained: Callable, tiny_data: Callable, tmp_path: Path) -> None:
    class Interrupts(Callback):
        def on_validation_batch_end(self, _trainer: object, _model: object, _outputs: ImageBatch, *_: object) -> None:
            msg = "stopped"
            raise RuntimeError(msg)

    model, _, _ = trained(val_split_mode="none")
    data = tiny_data(abnormal_dir=None, mask_dir=None, normal_test_dir="test/good")
    with pytest.raises(RuntimeError, match="stopped"):
        build_engine(tmp_path / "a", callbacks=[Interrupts()]).validate(model, datamodule=data)
    build_engine(tmp_path / "b").validate(model, datamodule=data)
    assert len(model.post_processor.normal_evidence) == 6
