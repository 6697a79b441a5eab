"""The post-processor: thresholds, calibrated scores, labels and outlines, in training, test, prediction and exports."""

__all__ = ["CalibratedPostProcessor"]

import logging
from typing import Any

import numpy as np
import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray

from anomalib_scrd.decision.calibrated_score import calibrated, labels_and_outlines, uncalibrated
from anomalib_scrd.decision.evidence import EvidenceMetric, evidence_of, lacks_real_anomalies
from anomalib_scrd.decision.thresholds import (
    DEFAULT_RATE,
    check_rate,
    fewest_images,
    share_interval,
    threshold_by_rate,
    threshold_scale,
)
from anomalib_scrd.training.modes import evaluation_mode

logger = logging.getLogger(__name__)

_OWN_BUFFERS = ("image_scale", "pixel_scale", "normal_evidence")
_SCORE, _PEAK, _LEVEL = range(3)


class CalibratedPostProcessor(PostProcessor):
    """Thresholds from normal images, and scores calibrated so that 0.5 is the threshold.

    Thresholds are found in every validation of a fit, the last one after the last step, and in ``trainer.validate``:

    - By a false-alarm rate, if the validation set has no real anomalies (synthetic ones do not count) or a rate was
      given. The scores of that share of normal images exceed the image threshold, and the highest values of that share
      of their maps exceed the pixel threshold (:func:`~anomalib_scrd.decision.thresholds.threshold_by_rate`). The
      normal images are those that the fit holds out from the student
      (:class:`~anomalib_scrd.training.held_out.HeldOut`) and those of the validation set, unless that is the test set;
      if it is and nothing is held out, its images are used with a warning.
      ``trainer.validate`` takes only those of the validation set.
    - Otherwise by the best F1 on the validation set (anomalib's rule). Without masks the pixel threshold is found from
      the maps of normal images as above.

    The checkpoint keeps the scores and map peaks of the normal images. Assigning :attr:`false_alarm_rate` therefore
    changes both thresholds without data and without training; ``python -m anomalib_scrd.decision`` changes those of a
    checkpoint.

    A calibrated score is between 0 and 1, is 0.5 at the threshold and 0.25 at the median of normal images, and keeps
    the order of the raw scores (:func:`~anomalib_scrd.decision.calibrated_score.calibrated`); so does the map, on its
    own scale: 0.5 is the pixel threshold, 0.25 the median of normal maps. Label and outline agree
    (:func:`~anomalib_scrd.decision.calibrated_score.labels_and_outlines`). An exported model computes all of this in
    its graph.

    Without thresholds (no normal and no validation images) scores and maps stay raw, and there are neither labels nor
    masks, also in exports.

    Args:
        false_alarm_rate: Share of normal images that are called anomalous, in (0, 1). None, the default, for 0.05 if
            the validation set has no real anomalies and the best F1 otherwise, or for the rate of a loaded checkpoint.
        enable_normalization: Whether scores and maps are calibrated (default); labels and outlines do not depend on it.
        enable_thresholding: Whether there are labels and outlines (default).
        image_sensitivity: Calibrated scores above 1 minus this value are anomalous, in [0, 1]; default 0.5.
        pixel_sensitivity: The same for the pixels of maps; default 0.5.

    Raises:
        ValueError: If an argument is out of range.
    """

    image_scale: torch.Tensor
    pixel_scale: torch.Tensor
    normal_evidence: torch.Tensor

    def __init__(
        self,
        false_alarm_rate: float | None = None,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
    ) -> None:
        for name, value in (("image_sensitivity", image_sensitivity), ("pixel_sensitivity", pixel_sensitivity)):
            if not 0 <= value <= 1:
                msg = f"{name} must be in [0, 1], got {value!r}"
                raise ValueError(msg)
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=False,  # scores and maps have separate scales
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        self._asked_rate = None if false_alarm_rate is None else check_rate(false_alarm_rate)
        self._used_rate: float | None = None
        self._evidence = EvidenceMetric()
        self._best_f1 = False
        self.register_buffer("image_scale", torch.tensor(float("nan")))
        self.register_buffer("pixel_scale", torch.tensor(float("nan")))
        self.register_buffer("normal_evidence", torch.empty(0, 3))

    @property
    def false_alarm_rate(self) -> float | None:
        """Rate by which the thresholds were found; None if the best F1 was used or there are no thresholds.

        Assigning a rate finds new thresholds from the normal images of the last fit or validation.
        """
        return self._used_rate

    @false_alarm_rate.setter
    def false_alarm_rate(self, rate: float) -> None:
        self._asked_rate = check_rate(rate)
        if len(self.normal_evidence):
            self._set_by_rate(self.normal_evidence.cpu().numpy(), self._asked_rate)
        elif self.has_thresholds:
            msg = (
                f"false_alarm_rate {rate} needs the scores of normal images, and none were kept with these thresholds: "
                "validate once more (Engine.validate), with normal images in the validation set"
            )
            raise ValueError(msg)

    @property
    def has_thresholds(self) -> bool:
        """Whether there is an image threshold."""
        return not bool(torch.isnan(self._image_threshold))

    @property
    def output_thresholds(self) -> tuple[float, float]:
        """Thresholds of score and map in the unit in which they are returned; finite, or NaN without thresholds."""
        parts = (
            (self.normalized_image_threshold, self._image_threshold, self.image_scale),
            (self.normalized_pixel_threshold, self._pixel_threshold, self.pixel_scale),
        )
        if not self.has_thresholds:
            return float("nan"), float("nan")
        image, pixel = (
            shown if self.enable_normalization else uncalibrated(shown, threshold, scale).nan_to_num()
            for shown, threshold, scale in parts
        )
        return float(image), float(pixel)

    def map_around_half(self, anomaly_map: torch.Tensor) -> torch.Tensor:
        """Calibrate a returned map so that 0.5 is the pixel threshold in use, with any sensitivity, also a raw map."""
        threshold, scale = self._pixel_threshold, self.pixel_scale
        if self.enable_normalization and self.normalized_pixel_threshold == 0.5:  # noqa: PLR2004 - calibrated so
            return anomaly_map
        anomaly_map = anomaly_map.to(threshold.device)
        raw = uncalibrated(anomaly_map, threshold, scale) if self.enable_normalization else anomaly_map.float()
        return calibrated(raw, uncalibrated(self.normalized_pixel_threshold, threshold, scale), scale)

    def describe(self) -> str:
        """The thresholds and where they come from, in one line."""
        if not self.has_thresholds:
            return "none: scores are raw, images are called neither normal nor anomalous"
        raw = f"0.5 (raw score {self._image_threshold.item():.4g}, map {self._pixel_threshold.item():.4g})"
        normal = self.normal_evidence[:, _SCORE].cpu()
        if self._used_rate is None:
            return f"{raw}, the best F1 on the validation images"
        above = int((normal > self._image_threshold.cpu()).sum())
        low, high = share_interval(above, len(normal))
        line = (
            f"{raw}, for a false-alarm rate of {self._used_rate:.3g}: {above} of {len(normal)} normal images are "
            f"above it (95 % interval {low:.3f} to {high:.3f})"
        )
        if len(normal) < fewest_images(self._used_rate):
            line += f"; extrapolated, because this rate needs {fewest_images(self._used_rate)} images"
        return line

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop earlier images, and choose between a false-alarm rate and the best F1.

        Args:
            trainer: Trainer with its validation loaders.
            pl_module: Unused.
        """
        del pl_module
        self._best_f1 = self._asked_rate is None and not lacks_real_anomalies(trainer.val_dataloaders)
        self._evidence.reset()
        self._image_threshold_metric.reset()
        self._pixel_threshold_metric.reset()

    def on_validation_batch_end(  # type: ignore[override]  # anomalib's signature
        self, trainer: Trainer, pl_module: LightningModule, outputs: Batch, *args: Any, **kwargs: Any
    ) -> None:
        """Keep scores and map peaks of a batch.

        Args:
            trainer: Unused.
            pl_module: Unused.
            outputs: Batch with raw predictions.
            *args: Unused.
            **kwargs: Unused.
        """
        del trainer, pl_module, args, kwargs
        self._evidence.update(outputs.gt_label, evidence_of(outputs))
        if self._best_f1:
            self._image_threshold_metric.update(outputs)
            self._pixel_threshold_metric.update(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the thresholds.

        Args:
            trainer: Trainer of a fit or a validation.
            pl_module: Model, in evaluation mode.
        """
        if trainer.sanity_checking:
            return
        normal, anomalous = self._evidence.compute_numpy()
        held_out = getattr(pl_module, "held_out", None)
        fitting = trainer.state.fn == TrainerFn.FITTING
        both_classes = len(normal) > 0 and len(anomalous) > 0
        kept = normal
        if fitting and held_out is not None and len(held_out):
            validated = _dataset(trainer.val_dataloaders)
            same = validated is held_out.dataset
            if _is_test_set(trainer) or (same and held_out.left_out_scores is not None):
                kept = normal[:0]
            if not same or held_out.left_out_scores is not None:
                kept = np.concatenate([kept, self._held_out_evidence(trainer, pl_module)])
        elif fitting and len(kept) and not self._best_f1 and _is_test_set(trainer):
            logger.warning(
                "The threshold comes from normal images of the test set, because val_split_mode is same_as_test and "
                "scoring.held_out 0: the test's false-alarm rate says nothing about new images."
            )
        self._set(kept, validation=normal if self._best_f1 and both_classes else None, anomalous=anomalous)

    def fit_to_held_out(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the thresholds where a fit does not validate, from the held-out images.

        Args:
            trainer: Trainer of the fit.
            pl_module: Model with held-out images; without any, nothing is changed.
        """
        if len(getattr(pl_module, "held_out", ())):
            self._set(self._held_out_evidence(trainer, pl_module))

    @torch.no_grad()
    def _held_out_evidence(self, trainer: Trainer, pl_module: LightningModule) -> NDArray[np.float32]:
        """(n, 3) evidence of the held-out images.

        The weights of the score are fitted to these images, so with few images their scores are too low for a
        threshold. Scores by weights fitted without the respective image are too high: with 4 to 12 images, the mean of
        both gives the requested rate.
        """
        precision = trainer.precision_plugin
        model: Any = pl_module
        with evaluation_mode(model), precision.val_step_context():
            batches = map(precision.convert_input, model.held_out.images(model))
            found = torch.cat([evidence_of(model.model(images)).cpu() for images in batches])
        left_out = model.held_out.left_out_scores
        if left_out is not None:
            found[:, _SCORE] = (found[:, _SCORE] + left_out.cpu()) / 2
        return found.numpy()

    def _set(
        self,
        normal: NDArray[np.float32],
        validation: NDArray[np.float32] | None = None,
        anomalous: NDArray[np.float32] | None = None,
    ) -> None:
        """Set the thresholds.

        Args:
            normal: (n, 3) evidence of the normal images for thresholds by rate.
            validation: (m, 3) evidence of normal validation images if the best F1 is wanted, else None.
            anomalous: (k, 3) evidence of anomalous validation images.
        """
        finite = np.isfinite(normal).all(axis=1)
        if not finite.all():
            logger.warning(
                "%d of %d normal images have scores that are not finite; they are left out of the thresholds",
                int((~finite).sum()),
                len(normal),
            )
            normal = normal[finite]
        if validation is not None and anomalous is not None:
            self.normal_evidence = torch.from_numpy(normal.copy()).to(self._image_threshold.device)
            self._set_by_best_f1(normal if len(normal) else validation, validation, anomalous)
        elif len(normal):
            self.normal_evidence = torch.from_numpy(normal.copy()).to(self._image_threshold.device)
            self._set_by_rate(normal, self._asked_rate or DEFAULT_RATE)
        elif not self.has_thresholds:
            logger.warning(
                "There is no threshold: no normal images are held out from the training, and the validation set has "
                "none. Scores stay raw, and images are called neither normal nor anomalous."
            )

    def _set_by_rate(self, normal: NDArray[np.float32], rate: float) -> None:
        self._used_rate = rate
        self._fill("image", threshold_by_rate(normal[:, _SCORE], rate), normal[:, _SCORE])
        self._fill("pixel", threshold_by_rate(normal[:, _PEAK], rate), normal[:, _LEVEL])

    def _set_by_best_f1(
        self, normal: NDArray[np.float32], validation: NDArray[np.float32], anomalous: NDArray[np.float32]
    ) -> None:
        self._used_rate = None
        best = float(self._image_threshold_metric.compute())
        # anomalib's rule counts an image at the threshold as anomalous; a label needs a score above it.
        scores = np.concatenate([validation[:, _SCORE], anomalous[:, _SCORE]])
        below = scores[scores < best]
        image = (best + below.max()) / 2 if len(below) else float(np.nextafter(np.float32(best), np.float32(-np.inf)))
        self._fill("image", float(image), normal[:, _SCORE])
        masks = self._pixel_threshold_metric
        pixel = masks.compute() if masks.update_called else threshold_by_rate(normal[:, _PEAK], DEFAULT_RATE)
        self._fill("pixel", float(pixel), normal[:, _LEVEL])

    def _fill(self, part: str, threshold: float, normal: NDArray[np.float32]) -> None:
        getattr(self, f"_{part}_threshold").fill_(threshold)
        getattr(self, f"{part}_scale").fill_(threshold_scale(threshold, normal))

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Calibrate raw predictions and compute labels and masks.

        Args:
            predictions: ``pred_score`` (B,), ``anomaly_map`` (B, 1, H, W) or (B, H, W), one of which may be None.

        Returns:
            Calibrated score and map, label (B,) and mask (in the shape of the map).

        Raises:
            ValueError: If there is neither a score nor a map.
        """
        score, anomaly_map = predictions.pred_score, predictions.anomaly_map
        if score is None:
            if anomaly_map is None:
                msg = "at least one of pred_score and anomaly_map is needed, got neither"
                raise ValueError(msg)
            score = anomaly_map.amax(dim=(-2, -1)).reshape(-1)
        shown = calibrated(score, self._image_threshold, self.image_scale)
        shown_map = None if anomaly_map is None else calibrated(anomaly_map, self._pixel_threshold, self.pixel_scale)
        label = mask = None
        # An exporter cannot branch on a tensor; its graph always has labels.
        if self.enable_thresholding and (torch.compiler.is_compiling() or self.has_thresholds):
            label, mask = labels_and_outlines(
                shown, shown_map, self.normalized_image_threshold, self.normalized_pixel_threshold
            )
        if not self.enable_normalization:
            shown, shown_map = score, anomaly_map
        return InferenceBatch(pred_score=shown, pred_label=label, anomaly_map=shown_map, pred_mask=mask)

    def post_process_batch(self, batch: Batch) -> None:
        """Apply :meth:`forward` to a batch of a test or prediction.

        Args:
            batch: Batch with raw predictions; changed in place.
        """
        result = self(InferenceBatch(pred_score=batch.pred_score, anomaly_map=batch.anomaly_map))
        batch.update(**result._asdict())

    def checkpoint_config(self) -> dict[str, Any]:
        """Plain settings for a checkpoint."""
        rates = {"false_alarm_rate": self._used_rate, "asked_false_alarm_rate": self._asked_rate}
        return {**super().checkpoint_config(), **rates}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Load the settings of a checkpoint; a rate given to this object has priority, see ``load_state_dict``."""
        super().load_checkpoint_config(config)
        self.enable_threshold_matching = False
        self._used_rate = config.get("false_alarm_rate")
        if self._asked_rate is None:
            self._asked_rate = config.get("asked_false_alarm_rate")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Load thresholds, also those of anomalib's own post-processor; apply a rate given to this object."""
        kept = state_dict.get(f"{prefix}normal_evidence")
        if kept is not None:
            self.normal_evidence = torch.empty(kept.shape, device=self._image_threshold.device)
        missing = [name for name in _OWN_BUFFERS if f"{prefix}{name}" not in state_dict]
        state_dict = {**state_dict, **{f"{prefix}{name}": getattr(self, name) for name in missing}}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if "image_scale" in missing:  # a checkpoint of anomalib's post-processor
            for part in ("image", "pixel"):
                threshold = float(getattr(self, f"_{part}_threshold"))
                lowest = float(getattr(self, f"{part}_min"))
                self._fill(part, threshold, np.array([lowest], np.float32)[np.isfinite([lowest])])
        # Also if the same checkpoint is loaded twice, when the rate in use is already the requested one.
        if self._asked_rate is not None and (len(self.normal_evidence) or self._asked_rate != self._used_rate):
            self.false_alarm_rate = self._asked_rate


def _dataset(loaders: Any) -> Any:
    """The dataset of the only validation loader, None where there are several or none."""
    several = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    return getattr(several[0], "dataset", None) if len(several) == 1 else None


def _is_test_set(trainer: Trainer) -> bool:
    mode = getattr(getattr(trainer, "datamodule", None), "val_split_mode", None)
    return getattr(mode, "value", None) == "same_as_test"
