"""`ScaleAwareCRD`: the model as anomalib trains, tests and exports it."""

__all__ = ["ScaleAwareCRD"]

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from anomalib import LearningType, TaskType
from anomalib.data import AnomalibDataModule, Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import nn
from torchmetrics import Metric
from torchvision import transforms as transforms_v1
from torchvision.transforms.v2 import Normalize

from anomalib_scrd.components.feature_standardisation import FeatureScaling
from anomalib_scrd.components.scale_adaptation import ScaleAdaptationMode
from anomalib_scrd.data.reading import NamesBrokenImages, check_images, image_files
from anomalib_scrd.data.validation import RepeatableDataModule
from anomalib_scrd.decision.evaluation import DecisionEvaluator
from anomalib_scrd.decision.post_processor import CalibratedPostProcessor
from anomalib_scrd.export.openvino_outputs import keep_names_of_outputs
from anomalib_scrd.export.quantisation import quantise, quantise_with_accuracy_control
from anomalib_scrd.integration.command_line import plain_errors
from anomalib_scrd.integration.registration import register
from anomalib_scrd.loss import LossTerms, ScaleAwareContrastiveLoss
from anomalib_scrd.noise import SyntheticAnomalies, step_generator
from anomalib_scrd.scoring.anomaly_map import MergeMode
from anomalib_scrd.scoring.image_score import ScoreKind
from anomalib_scrd.scoring.map_standardisation import CalibrationMode
from anomalib_scrd.torch_model import BlockChoice, ScaleAwareCRDModel
from anomalib_scrd.training.checkpoint_files import write_atomically
from anomalib_scrd.training.console import tidy
from anomalib_scrd.training.feature_cache import FeatureCache
from anomalib_scrd.training.full_batches import FullBatches
from anomalib_scrd.training.held_out import HeldOut
from anomalib_scrd.training.run_report import RunReport
from anomalib_scrd.training.schedule import SCHEDULES, cosine_with_warmup, end_by_itself
from anomalib_scrd.training.validation_times import ValidationTimes
from anomalib_scrd.visualisation.visualizer import DecisionVisualizer

logger = logging.getLogger(__name__)

_STATE = "anomalib_scrd"
_OPSET = 18
_NUMBER = (int, float, np.number)


class ScaleAwareCRD(AnomalibModule):
    """Scale-Aware Contrastive Reverse Distillation for anomaly detection, trained on normal images only.

    Li, Shi, Hu, Zhu, Mou: "Scale-Aware Contrastive Reverse Distillation for Unsupervised Medical Anomaly Detection",
    ICLR 2025. The defaults are this project's; ``configs/model/published.yaml`` holds the paper's.

    A training that is started without a length ends after the published 40,000 steps.

    Args:
        backbone: Name of a timm model: the teacher.
        layers: Names of its feature maps, finest first, two or more; None for those of strides 4, 8 and 16.
        pre_trained: True for timm's ImageNet weights, from the hub, its cache or the ``offline`` extra; False for
            random weights; or the path of a .safetensors or .pth file.
        student_block: Blocks of bottleneck and student: auto, basic, bottleneck or separable.
        student_depth: Blocks per scale, coarsest first, or one number for all; None for the block's usual depth.
        pull_weight: Weight of the distance between the student and the clean teacher.
        restore_weight: Weight of the same distance with the student fed by the noisy image; above 0 the student
            makes a pass over the noisy images.
        contrast_weight: Weight of the published ratio pull / push, which needs the teacher's view of synthetic
            anomalies: 1 is published, 0.1 is what did no harm beside ``pull_weight``; 0 for none.
        feature_scaling: Standardisation of the teacher's channels on normal images: channel or none (published).
        scale_adaptation: Weights of the scales: adaptive, published or uniform.
        calibration: Standardisation of the scales on normal images: position, scale or none.
        damping: Mean square of the teacher's channels at which half of a distance remains in the map; 0 for none
            (published). In units of standardised channels unless feature_scaling is none.
        merge: Map from the scales: norm, max or mean (published).
        score: Image score: scales (joins the calibrated peaks of the scales' maps, damped and plain), or of the merged
            map its mean (published), its max or its peak (top_k).
        top_k: Share of a map whose mean is its peak, in (0, 1]; for the score top_k, and the damped maps of scales.
        diffuse_top_k: The same for the plain maps of the score scales, which tell diffuse anomalies.
        level: Share of a map's median that is subtracted from its peak, in [0, 1]; for the score top_k, and the plain
            maps of scales.
        sigma: Smoothing of the map, pixels of the model's input.
        broad_weight: Weight in the anomaly map of maps that are smoothed four times as wide, for what lies over a large
            part of an image, faintly; 0 for none (published).
        noise: Kind of synthetic anomaly: simplex, perlin or gaussian.
        noise_share: Share of the images of a batch that the model sees with synthetic anomalies as well, in (0, 1], at
            least one image; 1 is published. A step costs that much of a teacher's pass more, and of the student's with
            ``restore_weight``.
        noise_strength: Factor of the noise in units of an image in [0, 1], or a range (low, high).
        noise_size: Smallest and largest side of a patch, relative to the image's.
        noise_count: Patches per image, or a range (low, high).
        noise_period: Period of the coarsest octave, relative to the image.
        noise_octaves: Octaves of the noise.
        noise_persistence: Amplitude of an octave relative to the one before.
        noise_foreground: Whether anomalies lie on the anatomy only: patches are centred on it and end at its border.
        noise_seed: Seed of the synthetic anomalies; None takes the one of the run (``seed_everything``).
        learning_rate: Learning rate of Adam.
        betas: Betas of Adam.
        weight_decay: Decoupled weight decay.
        schedule: Learning rate over the training: none, or cosine, which falls to zero at the last step (constant where
            only a time limit ends the training).
        warmup_steps: Steps of linear warm-up of the cosine schedule.
        feature_cache: Memory of the model's device, in GiB per process, for the teacher's features of clean training
            images; after the first epoch the teacher sees the noisy ones only. 0 for none. Refused with augmentations.
        feature_cache_dir: Folder for the features that find no room there, until the training ends; None for no files:
            what finds no room is computed in every epoch. A folder and 0 GiB put all of them there.
        compile_model: Whether to train with ``torch.compile``, which needs a compiler; exports and tests do without.
        pre_processor: Pre-processor, or whether to use the default one.
        post_processor: Post-processor, or whether to use the default one.
        evaluator: Evaluator, or whether to use the default one.
        visualizer: Visualizer, or whether to use the default one.

    Raises:
        ValueError: If an argument is out of range; the message names it, its value and what is allowed.
        RuntimeError: If pretrained weights are wanted and cannot be had; the message names the ways out.

    Example:
        >>> from anomalib.engine import Engine
        >>> from anomalib_scrd import PhantomSlices, ScaleAwareCRD
        >>> model = ScaleAwareCRD(backbone="resnet18", pre_trained=False)
        >>> Engine(max_steps=10).fit(model, datamodule=PhantomSlices())  # doctest: +SKIP
    """

    model: ScaleAwareCRDModel
    loss: ScaleAwareContrastiveLoss

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] | None = None,
        pre_trained: bool | str | Path = True,
        student_block: BlockChoice = "auto",
        student_depth: int | Sequence[int] | None = None,
        pull_weight: float = 1.0,
        restore_weight: float = 0.0,
        contrast_weight: float = 0.0,
        feature_scaling: FeatureScaling = "channel",
        scale_adaptation: ScaleAdaptationMode = "adaptive",
        calibration: CalibrationMode = "scale",
        damping: float = 10.0,
        merge: MergeMode = "norm",
        score: ScoreKind = "scales",
        top_k: float = 0.02,
        diffuse_top_k: float = 0.1,
        level: float = 0.5,
        sigma: float = 4.0,
        broad_weight: float = 0.85,
        noise: Literal["simplex", "perlin", "gaussian"] = "simplex",
        noise_share: float = 0.0625,
        noise_strength: float | Sequence[float] = 0.4,
        noise_size: Sequence[float] = (0.06, 0.32),
        noise_count: int | Sequence[int] = 1,
        noise_period: float = 0.125,
        noise_octaves: int = 6,
        noise_persistence: float = 0.6,
        noise_foreground: bool = False,
        noise_seed: int | None = None,
        learning_rate: float = 5e-3,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: Literal["none", "cosine"] = "cosine",
        warmup_steps: int = 50,
        feature_cache: float = 0.0,
        feature_cache_dir: str | Path | None = None,
        compile_model: bool = False,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        tidy()
        with plain_errors():
            # Checkpoints load weights-only: what `super().__init__` saves must be plain lists, numbers and strings,
            # also where OmegaConf or jsonargparse hand over their own kinds.
            layers = _plain(layers)
            pre_trained = str(pre_trained) if isinstance(pre_trained, Path) else pre_trained
            student_depth = _plain(student_depth)
            noise_strength = _plain(noise_strength)
            noise_size = _plain(noise_size)
            noise_count = _plain(noise_count)
            betas = _plain(betas)
            feature_cache_dir = str(feature_cache_dir) if isinstance(feature_cache_dir, Path) else feature_cache_dir
            super().__init__(
                pre_processor=pre_processor,
                post_processor=post_processor,
                evaluator=evaluator,
                visualizer=visualizer,
            )
            numbers = {
                "pull_weight": pull_weight,
                "restore_weight": restore_weight,
                "contrast_weight": contrast_weight,
                "damping": damping,
                "top_k": top_k,
                "diffuse_top_k": diffuse_top_k,
                "level": level,
                "sigma": sigma,
                "broad_weight": broad_weight,
                "noise_share": noise_share,
                "noise_period": noise_period,
                "noise_persistence": noise_persistence,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "feature_cache": feature_cache,
            }
            for name, value in numbers.items():
                _check_number(name, value)
            self.learning_rate = _positive("learning_rate", learning_rate)
            self.betas = _betas(betas)
            self.weight_decay = _at_least_zero("weight_decay", weight_decay)
            if schedule not in SCHEDULES:
                msg = f"schedule must be one of {SCHEDULES}, got {schedule!r}"
                raise ValueError(msg)
            self.schedule = schedule
            self.warmup_steps = _whole("warmup_steps", warmup_steps)
            memory = _at_least_zero("feature_cache", feature_cache)
            if feature_cache_dir is not None and not isinstance(feature_cache_dir, str):
                msg = f"feature_cache_dir must be the path of a folder or null, got {feature_cache_dir!r}"
                raise ValueError(msg)
            cached = memory > 0 or feature_cache_dir is not None
            self.feature_cache = FeatureCache(memory, feature_cache_dir) if cached else None
            self.held_out = HeldOut()

            self.loss = ScaleAwareContrastiveLoss(pull_weight, restore_weight, contrast_weight)
            self.synthetic_anomalies = SyntheticAnomalies(
                kind=noise,
                strength=noise_strength,
                size=noise_size,
                count=noise_count,
                period=noise_period,
                octaves=noise_octaves,
                persistence=noise_persistence,
                foreground=noise_foreground,
            )
            if not 0 < noise_share <= 1:
                msg = f"noise_share must lie in (0, 1], got {noise_share}"
                raise ValueError(msg)
            self.noise_share = noise_share
            self.compile_model = compile_model
            self.noise_seed = None if noise_seed is None else _whole("noise_seed", noise_seed)
            self._batches_seen = 0
            self._full_batches = FullBatches()
            self._image_std: torch.Tensor | None = None
            self._terms: tuple[LossTerms, int] | None = None

            self.model = ScaleAwareCRDModel(
                backbone=backbone,
                layers=layers,
                pre_trained=pre_trained,
                student_block=student_block,
                student_depth=student_depth,
                feature_scaling=feature_scaling,
                scale_adaptation=scale_adaptation,
                calibration=calibration,
                damping=damping,
                merge=merge,
                score=score,
                top_k=top_k,
                diffuse_top_k=diffuse_top_k,
                level=level,
                sigma=sigma,
                broad_weight=broad_weight,
            )

    def setup(self, stage: str) -> None:
        """Give a training without a length the published one, and look at sizes and data before the work starts.

        Raises:
            ValueError: If the pre-processor makes the images too small, or the data module would fail for lack of
                validation images.
            UnreadableImageError: If files are no images.
        """
        self._check_size()
        if stage != "fit":
            return
        write_atomically(self.trainer)
        end_by_itself(self.trainer)  # before optimisers and schedules ask for the length
        datamodule = getattr(self.trainer, "datamodule", None)
        if (
            isinstance(datamodule, AnomalibDataModule)
            and not isinstance(datamodule, RepeatableDataModule)
            and not hasattr(datamodule, "val_data")
            and self.trainer.limit_val_batches
        ):
            msg = (
                f"{type(datamodule).__name__} has no validation images (val_split_mode "
                f"{str(datamodule.val_split_mode.value)!r}), and anomalib fails at that: give another val_split_mode, "
                "or trainer.limit_val_batches 0 for scores without threshold and normalisation"
            )
            raise ValueError(msg)
        check_images(image_files(self.trainer))

    def _check_size(self) -> None:
        """Refuse a pre-processor that makes images too small.

        Not when the model is built: anomalib builds it with a pre-processor for 10 x 10 pixels where it only wants to
        know the metrics.
        """
        size = self.input_size
        if size is not None and min(size) < self.model.minimum_size:
            msg = (
                f"the pre-processor resizes images to {size[0]} x {size[1]} pixels; backbone "
                f"{self.hparams['backbone']!r} with layers {list(self.model.teacher.layers)} needs at least "
                f"{self.model.minimum_size}"
            )
            raise ValueError(msg)

    def configure_callbacks(self) -> list[Callback]:
        """Add to those of anomalib one that names images which cannot be read, and the cache of features."""
        callbacks = super().configure_callbacks()
        own: list[Callback] = [self.held_out, ValidationTimes(), RunReport(), NamesBrokenImages()]
        if self.feature_cache is not None:
            own.append(self.feature_cache)
        return [*(callbacks if isinstance(callbacks, Sequence) else [callbacks]), *own]

    def configure_post_processor(self) -> CalibratedPostProcessor:
        """Thresholds from normal images by a false-alarm rate, or the best F1 where there are real anomalies."""
        return CalibratedPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """AUROC and F1 of images and pixels, undefined where they are."""
        return DecisionEvaluator()

    @classmethod
    def configure_visualizer(cls) -> DecisionVisualizer:
        """Pictures with score, label and threshold, and a table of predictions."""
        return DecisionVisualizer()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam (decoupled weight decay) over bottleneck, student and scale adaptation.

        A cosine needs to know where it ends: in a training that only a time limit ends, the learning rate stays where
        the warm-up has brought it.
        """
        optimizer = torch.optim.AdamW(
            self.model.trainable_parameters(),
            lr=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            # One kernel in place of many; Lightning refuses to clip gradients under mixed precision beside it.
            fused=not self.trainer.gradient_clip_val,
        )
        if self.schedule == "none":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        known = math.isfinite(steps)
        if not known:
            logger.warning(
                "schedule 'cosine' does not know how many steps a training with trainer.max_time alone has: the "
                "learning rate stays constant after the warm-up; give trainer.max_steps or trainer.max_epochs as well",
            )
        scheduler = cosine_with_warmup(optimizer, int(steps) if known else None, self.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Fix the seed of the synthetic anomalies, read the pre-processor's normalisation, forget earlier batches."""
        self._full_batches = FullBatches()
        if self.noise_seed is None:
            self.noise_seed = torch.initial_seed() % 2**63
        transform = getattr(self.pre_processor, "transform", None)
        std = normalisation_std(transform)
        self._image_std = None if std is None else std.to(self.device)
        if self.compile_model:
            self.model.compile()
            self.model.teacher.compile()  # the cache of features asks it alone

    def on_fit_end(self) -> None:
        """Let go of the last images, and leave the model as it was before it was compiled, for the exporters."""
        self._full_batches = FullBatches()
        if self.compile_model:
            for module in (self.model, self.model.teacher):
                module._compiled_call_impl = None  # noqa: SLF001 - torch has a way in, none out

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """One step: synthetic anomalies, teacher on both images, student, loss.

        Args:
            batch: Batch of normal images.
            *args: Unused.
            **kwargs: Unused.

        Returns:
            The loss, ().
        """
        del args, kwargs
        images, paths = self._full_batches(cast("torch.Tensor", batch.image), getattr(batch, "image_path", None))
        noisy = None
        if self.loss.needs_noisy:
            generator = step_generator(
                self.noise_seed or 0, self._batches_seen, rank=self.global_rank, device=images.device
            )
            count = math.ceil(self.noise_share * len(images))
            noisy, _ = self.synthetic_anomalies(images[:count], generator=generator, std=self._image_std)
        standardise = self.model.standardise
        if standardise is not None and not self.compile_model:  # which would compile a second graph in mid-training
            standardise.learning = self._batches_seen < standardise.batches
        self._batches_seen += 1
        taught = None
        if self.feature_cache is not None:
            taught = self.feature_cache.features(self.model.teacher, images, noisy, paths)
        try:
            features = self.model(images, noisy, restore=self.loss.needs_restored, taught=taught)
        except (ValueError, RuntimeError) as error:  # the latter from a compiled model
            if "more than 1 value per channel" not in str(error):  # batch norm's
                raise
            batch_size, _, height, width = images.shape
            msg = (
                f"a training batch of {batch_size} image of {height} x {width} pixels leaves one position of the "
                "embedding, and batch norm needs two: give larger images, or a train_batch_size that leaves no single "
                "image for the last batch of an epoch"
            )
            raise ValueError(msg) from error
        terms = self.loss(
            features.clean,
            features.student,
            features.scale,
            noisy=features.noisy,
            restored=features.restored,
        )
        # Every part costs the host time: they are kept, and logged where a row is written.
        self._terms = terms._replace(total=terms.total.detach()), images.shape[0]
        self.log(
            "train_loss", self._terms[0].total, on_step=True, on_epoch=True, prog_bar=True, batch_size=images.shape[0]
        )
        return terms.total

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predict a batch; the post-processor takes its thresholds from the result."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

    def before_thresholds(self) -> None:
        """Called before each finding of thresholds in a fit, in evaluation mode and without gradients."""

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Log the terms of the step whose row goes to the loggers.

        Only here is it known which one that is: the optimiser may have to wait for further batches, and the training
        may have been stopped.
        """
        del outputs, batch, batch_idx
        steps: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if self._terms is None or not steps:
            return
        if self.global_step % steps == 0 or self.trainer.should_stop:
            terms, batch_size = self._terms
            self.log_dict(self._named(terms), batch_size=batch_size)

    def _named(self, terms: LossTerms) -> dict[str, torch.Tensor]:
        """The parts of the loss by the names under which they are logged."""
        values: dict[str, torch.Tensor] = {}
        for name in ("pull", "push", "restore", "weights"):
            per_scale = getattr(terms, name)
            if per_scale is not None:
                label = "scale_weight" if name == "weights" else name
                values.update(
                    {f"{label}/{layer}": v for layer, v in zip(self.model.teacher.layers, per_scale, strict=True)}
                )
        if terms.ratio is not None:
            values["ratio"] = terms.ratio
        return values

    def to_onnx(  # type: ignore[override]  # anomalib's signature
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export to ONNX; arguments as in ``ExportMixin.to_onnx``.

        The exporter writes opset 18 in any case; asking for it spares the attempt, with its traceback, to convert the
        model to anomalib's default of 14.

        Raises:
            ValueError: If neither the pre-processor nor ``input_size`` says how large images are, or the pre-processor
                makes them too small.
        """
        self._check_size()
        if input_size is None and self.input_size is None:
            msg = (
                "the pre-processor has no Resize, and without one the exporter cannot write a model for images of any "
                f"size: give input_size, (height, width), each at least {self.model.minimum_size}, got None"
            )
            raise ValueError(msg)
        kwargs.setdefault("opset_version", _OPSET)
        return super().to_onnx(export_root, model_file_name, input_size, **kwargs)

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:  # type: ignore[override]  # anomalib's signature
        """Export to OpenVINO; arguments as in ``ExportMixin.to_openvino``."""
        path = super().to_openvino(*args, **kwargs)
        keep_names_of_outputs(path)
        return path

    @staticmethod
    def _post_training_quantization_ov(model: Any, datamodule: AnomalibDataModule | None = None) -> Any:
        """Quantise all but the comparison of teacher and student, see :mod:`anomalib_scrd.export.quantisation`."""
        return quantise(model, datamodule)

    @staticmethod
    def _accuracy_control_quantization_ov(
        model: Any,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
    ) -> Any:
        """Quantise as above, and take operations back until the metric is near enough to the original's."""
        del task
        return quantise_with_accuracy_control(model, datamodule, metric, max_drop)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the position in the sequence of synthetic anomalies, so that a resumed run goes on with it."""
        super().on_save_checkpoint(checkpoint)
        # A NumPy number among the arguments would make a checkpoint that does not load weights-only.
        checkpoint["hyper_parameters"] = {
            name: _plain(value) if isinstance(value, np.generic) else value
            for name, value in checkpoint["hyper_parameters"].items()
        }
        checkpoint[_STATE] = {
            "noise_seed": self.noise_seed,
            "batches_seen": self._batches_seen,
            "pre_trained": self.hparams["pre_trained"],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore that position, and the argument which :meth:`load_from_checkpoint` replaced."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get(_STATE, {})
        self.noise_seed = state.get("noise_seed", self.noise_seed)
        self._batches_seen = state.get("batches_seen", 0)
        if "pre_trained" in state:
            self.hparams["pre_trained"] = state["pre_trained"]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> "ScaleAwareCRD":  # type: ignore[override]
        """Load a trained model; arguments as in ``AnomalibModule.load_from_checkpoint``.

        The checkpoint holds the teacher's weights, so none are fetched: this works in a closed network.
        """
        kwargs.setdefault("pre_trained", False)
        return cast("ScaleAwareCRD", super().load_from_checkpoint(checkpoint_path, *args, **kwargs))

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that this model insists on; the length is the user's."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """One class: only normal images are needed."""
        return LearningType.ONE_CLASS


def normalisation_std(transform: Any) -> torch.Tensor | None:
    """Standard deviation by which a pre-processing divides images in [0, 1].

    Args:
        transform: Transform of a pre-processor, of torchvision's first or second version, possibly nested.

    Returns:
        (C,) or (1,) float32, the product over all Normalize steps; None where there is none.
    """
    if isinstance(transform, (Normalize, transforms_v1.Normalize)):
        return torch.as_tensor(transform.std, dtype=torch.float32).reshape(-1)
    # Compose keeps its steps in a plain list, out of reach of `modules()`
    steps = transform if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", ())
    found = [std for std in map(normalisation_std, steps) if std is not None]
    return math.prod(found, start=torch.ones(1)) if found else None


def _plain(value: Any) -> Any:
    """A sequence of any kind as a plain list, a NumPy number as Python's; anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, int, float)):
        return value
    return [_plain(item) for item in value]


def _check_number(name: str, value: Any) -> None:
    """Refuse what is no finite number; bounds are checked by whoever uses it."""
    if isinstance(value, bool) or not isinstance(value, _NUMBER) or not math.isfinite(value):
        msg = f"{name} must be a finite number, got {value!r}"
        raise ValueError(msg)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        msg = f"{name} must be above 0, got {value}"
        raise ValueError(msg)
    return float(value)


def _at_least_zero(name: str, value: float) -> float:
    if not value >= 0:
        msg = f"{name} must be at least 0, got {value}"
        raise ValueError(msg)
    return float(value)


def _whole(name: str, value: Any) -> int:
    _check_number(name, value)
    if value < 0 or value != int(value):
        msg = f"{name} must be at least 0 and whole, got {value!r}"
        raise ValueError(msg)
    return int(value)


def _betas(betas: Any) -> tuple[float, float]:
    if (
        not isinstance(betas, list)
        or len(betas) != 2  # noqa: PLR2004
        or not all(isinstance(beta, _NUMBER) and 0 <= beta < 1 for beta in betas)
    ):
        msg = f"betas must be two numbers in [0, 1), got {betas!r}"
        raise ValueError(msg)
    return float(betas[0]), float(betas[1])


# Whoever imports the class finds it registered, however the import began.
register()
