"""`ScaleAwareCRD`: the model as anomalib trains, tests and exports it."""

__all__ = ["ScaleAwareCRD"]

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import nn
from torchvision import transforms as transforms_v1
from torchvision.transforms.v2 import Normalize
from typing_extensions import Unpack

from anomalib_scrd.data.checks import check_data
from anomalib_scrd.data.explained_errors import ExplainedDataErrors
from anomalib_scrd.data.prediction import read_any_format
from anomalib_scrd.data.stored_window import share_window
from anomalib_scrd.data.validation import RepeatableDataModule
from anomalib_scrd.export.mixin import ModelExport
from anomalib_scrd.integration.checkpoints import keep_own_evaluator
from anomalib_scrd.integration.command_line import plain_errors
from anomalib_scrd.integration.registration import register
from anomalib_scrd.loss import LossTerms, ScaleAwareContrastiveLoss
from anomalib_scrd.noise import Normalisation, SyntheticAnomalies, step_generator
from anomalib_scrd.options import (
    FeatureCacheOptions,
    GroupValue,
    LossOptions,
    NoiseOptions,
    OptimiserOptions,
    RenamedArguments,
    ScoringOptions,
    StudentOptions,
    plain,
    refuse_renamed,
    switch,
    whole_number,
)
from anomalib_scrd.presets import PresetName, resolved, without_effect
from anomalib_scrd.scoring.fitting import fit_weights
from anomalib_scrd.torch_model import ScaleAwareCRDModel
from anomalib_scrd.training.feature_cache import FeatureCache
from anomalib_scrd.training.full_batches import FullBatches
from anomalib_scrd.training.held_out import HeldOut
from anomalib_scrd.training.schedule import cosine_with_warmup, end_by_itself

logger = logging.getLogger(__name__)

_STATE = "anomalib_scrd"


class ScaleAwareCRD(ModelExport, AnomalibModule):
    """Scale-Aware Contrastive Reverse Distillation for anomaly detection, trained on normal images only.

    Li, Shi, Hu, Zhu, Mou: "Scale-Aware Contrastive Reverse Distillation for Unsupervised Medical Anomaly Detection",
    ICLR 2025. The preset ``published`` has the paper's settings.

    A training that is started without a length ends after the published 40,000 steps.

    Args:
        preset: Values of all that is not given: ``default``, ``published`` (the paper's) or ``edge`` (a small teacher
            and student, for computers without an accelerator).
        backbone: Name of a timm model: the teacher. None for the preset's.
        layers: Names of its feature maps, finest first, two or more; None for those of strides 4, 8 and 16.
        pre_trained: True for timm's ImageNet weights, from the hub, its cache or the ``offline`` extra; False for
            random weights; or the path of a .safetensors or .pth file.
        student: Blocks of the student, and its target (:class:`~anomalib_scrd.options.StudentOptions`). A group is
            given as its class or as a dict of fields; a field that is left out has the preset's value.
        loss: Weights of the terms of the loss (:class:`~anomalib_scrd.options.LossOptions`).
        noise: Synthetic anomalies (:class:`~anomalib_scrd.options.NoiseOptions`).
        scoring: Anomaly map and image score (:class:`~anomalib_scrd.options.ScoringOptions`).
        optimiser: Optimiser and learning rate (:class:`~anomalib_scrd.options.OptimiserOptions`).
        feature_cache: Cache of the teacher's features (:class:`~anomalib_scrd.options.FeatureCacheOptions`).
        compile_model: Whether to train with ``torch.compile``, which needs a compiler; exports and tests do without.
        seed: Seed of the synthetic anomalies, in [0, 2**63 - 1]; None takes the one of the run (``seed_everything``).
        pre_processor: Pre-processor, or whether to use the default one.
        post_processor: Post-processor, or whether to use the default one.
        evaluator: Evaluator, or whether to use the default one.
        visualizer: Visualizer, or whether to use the default one.
        **renamed: None; the names of earlier versions are refused with the new ones.

    Raises:
        ValueError: If an argument is out of range; the message names it, its value and what is allowed.
        RuntimeError: If pretrained weights are wanted and cannot be had; the message names the ways out.

    Example:
        >>> from anomalib.engine import Engine
        >>> from anomalib_scrd import PhantomSlices, ScaleAwareCRD
        >>> model = ScaleAwareCRD(backbone="resnet18", pre_trained=False, scoring={"sigma": 2.0})
        >>> Engine(max_steps=10).fit(model, datamodule=PhantomSlices())  # doctest: +SKIP
    """

    model: ScaleAwareCRDModel
    loss: ScaleAwareContrastiveLoss
    window: dict[str, Any] | None = None
    """How files became inputs in the training, from ``MedicalFolder``; None for images of 8 bits that anomalib read."""

    def __init__(
        self,
        preset: PresetName = "default",
        backbone: str | None = None,
        layers: Sequence[str] | None = None,
        pre_trained: bool | str | Path = True,
        student: StudentOptions | GroupValue = None,
        loss: LossOptions | GroupValue = None,
        noise: NoiseOptions | GroupValue = None,
        scoring: ScoringOptions | GroupValue = None,
        optimiser: OptimiserOptions | GroupValue = None,
        feature_cache: FeatureCacheOptions | GroupValue = None,
        compile_model: bool = False,
        seed: int | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        **renamed: Unpack[RenamedArguments],
    ) -> None:
        with plain_errors():
            read_any_format(ScaleAwareCRD)
            refuse_renamed(renamed)
            groups = {
                "student": student,
                "loss": loss,
                "noise": noise,
                "scoring": scoring,
                "optimiser": optimiser,
                "feature_cache": feature_cache,
            }
            chosen = resolved(preset, backbone, **groups)
            for name, reason in without_effect(preset, chosen):
                logger.warning("%s has no effect: %s", name, reason)
            # `super().__init__` saves these names for checkpoints, which load weights-only: plain lists, dicts, numbers
            # and strings. They hold every value, so that another version's presets change nothing.
            backbone, layers, pre_trained = chosen.backbone, plain(layers), plain(pre_trained)
            student, loss, noise = chosen.student.as_dict(), chosen.loss.as_dict(), chosen.noise.as_dict()
            scoring, optimiser = chosen.scoring.as_dict(), chosen.optimiser.as_dict()
            feature_cache = chosen.feature_cache.as_dict()
            compile_model = switch("compile_model", compile_model)
            seed = None if seed is None else whole_number("seed", plain(seed), low=0, high=2**63 - 1)
            super().__init__(
                pre_processor=pre_processor,
                post_processor=post_processor,
                evaluator=evaluator,
                visualizer=visualizer,
            )
            self.optimiser = optimiser
            cached = feature_cache["memory"] > 0 or feature_cache["folder"] is not None
            self.feature_cache = FeatureCache(**feature_cache) if cached else None
            self.held_out = HeldOut(chosen.scoring.held_out or 0.0)
            self.loss = ScaleAwareContrastiveLoss(**loss)
            self.noise_share = noise["share"]
            self.synthetic_anomalies = SyntheticAnomalies(
                **{name: value for name, value in noise.items() if name != "share"}
            )
            self.compile_model = compile_model
            self.noise_seed = seed
            self._batches_seen = 0
            self._full_batches = FullBatches()
            self._normalisation: Normalisation | None = None
            self._terms: tuple[LossTerms, int] | None = None
            self.model = ScaleAwareCRDModel(preset, backbone, layers, pre_trained, student=student, scoring=scoring)

    def setup(self, stage: str) -> None:
        """Give a training without a length the published one, and look at sizes and data before the work starts.

        Raises:
            ValueError: If the pre-processor makes the images too small, or the data module would fail for lack of
                validation images.
            UnreadableImageError: If files are no images.
        """
        self._check_size()
        share_window(self, self.trainer)
        if stage != "fit":
            check_data(self.trainer, stage, getattr(self.pre_processor, "transform", None))
            return
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
        check_data(self.trainer, stage, getattr(self.pre_processor, "transform", None))

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
        own: list[Callback] = [self.held_out, ExplainedDataErrors()]
        if self.feature_cache is not None:
            own.append(self.feature_cache)
        return [*(callbacks if isinstance(callbacks, Sequence) else [callbacks]), *own]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam (decoupled weight decay) over bottleneck, student and scale adaptation.

        A cosine needs to know where it ends: in a training that only a time limit ends, the learning rate stays where
        the warm-up has brought it.
        """
        optimizer = torch.optim.AdamW(
            self.model.trainable_parameters(),
            lr=self.optimiser["learning_rate"],
            betas=self.optimiser["betas"],
            weight_decay=self.optimiser["weight_decay"],
            # One kernel in place of many; Lightning refuses to clip gradients under mixed precision beside it.
            fused=not self.trainer.gradient_clip_val,
        )
        if self.optimiser["schedule"] == "none":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        known = math.isfinite(steps)
        if not known:
            logger.warning(
                "schedule 'cosine' does not know how many steps a training with trainer.max_time alone has: the "
                "learning rate stays constant after the warm-up; give trainer.max_steps or trainer.max_epochs as well",
            )
        scheduler = cosine_with_warmup(optimizer, int(steps) if known else None, self.optimiser["warmup_steps"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Fix the seed of the synthetic anomalies, read the pre-processor's normalisation, forget earlier batches."""
        self._full_batches = FullBatches()
        if self.noise_seed is None:
            self.noise_seed = torch.initial_seed() % 2**63
        self._normalisation = self._pre_processing()
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
        noisy = mask = None
        if self.loss.needs_noisy:
            generator = step_generator(
                self.noise_seed or 0, self._batches_seen, rank=self.global_rank, device=images.device
            )
            count = math.ceil(self.noise_share * len(images))
            noisy, mask = self.synthetic_anomalies(
                images[:count], generator=generator, normalisation=self._normalisation, turn=self._batches_seen
            )
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
            noisy=features.noisy,
            restored=features.restored,
            mask=mask,
            weights=features.weights,
        )
        # Every part costs the host time: they are kept, and logged where a row is written.
        self._terms = terms._replace(total=terms.total.detach()), images.shape[0]
        self.log(
            "train_loss", self._terms[0].total, on_step=True, on_epoch=True, prog_bar=True, batch_size=images.shape[0]
        )
        return terms.total

    @torch.no_grad()
    def before_thresholds(self) -> None:
        """Fit the weights of the scales to the student as it is now, before a validation takes thresholds from it.

        Without held-out images (no data module, or ``scoring.held_out`` 0) the weights stay as they are.
        """
        images = list(self.held_out.images(self))
        if not images:
            return
        fit_weights(self.model, torch.cat(images), self._pre_processing(), self.noise_seed or 0)

    def _pre_processing(self) -> Normalisation | None:
        """Mean and standard deviation by which the pre-processor normalises, on the model's device."""
        found = normalisation(getattr(self.pre_processor, "transform", None))
        return None if found is None else Normalisation(*(values.to(self.device) for values in found))

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predict a batch; the post-processor takes its thresholds from the result."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

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
        for name in ("contrast", "ratio"):
            value = getattr(terms, name)
            if value is not None:
                values[name] = value
        return values

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the position in the sequence of synthetic anomalies, so that a resumed run goes on with it."""
        super().on_save_checkpoint(checkpoint)
        # A NumPy number among the arguments would make a checkpoint that does not load weights-only.
        checkpoint["hyper_parameters"] = {
            name: plain(value) if isinstance(value, np.generic) else value
            for name, value in checkpoint["hyper_parameters"].items()
        }
        checkpoint[_STATE] = {
            "noise_seed": self.noise_seed,
            "batches_seen": self._batches_seen,
            "pre_trained": self.hparams["pre_trained"],
            "window": self.window,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore that position, and the argument which :meth:`load_from_checkpoint` replaced."""
        super().on_load_checkpoint(checkpoint)
        keep_own_evaluator(self, checkpoint)
        state = checkpoint.get(_STATE, {})
        self.noise_seed = state.get("noise_seed", self.noise_seed)
        self._batches_seen = state.get("batches_seen", 0)
        if "pre_trained" in state:
            self.hparams["pre_trained"] = state["pre_trained"]
        self.window = state.get("window")
        share_window(self, self._trainer, loaded=True)

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


def normalisation(transform: Any) -> Normalisation | None:
    """Find the mean and the standard deviation by which a pre-processing normalises images in [0, 1].

    Args:
        transform: Transform of a pre-processor, of torchvision's first or second version, possibly nested.

    Returns:
        Those of all its Normalize steps together; None where there is none.
    """
    if isinstance(transform, (Normalize, transforms_v1.Normalize)):
        mean, std = (
            torch.as_tensor(value, dtype=torch.float32).reshape(-1) for value in (transform.mean, transform.std)
        )
        return Normalisation(mean, std)
    # Compose keeps its steps in a plain list, out of reach of `modules()`.
    steps = transform if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", ())
    result: Normalisation | None = None
    for step in filter(None, map(normalisation, steps)):
        # ((x - m1) / s1 - m2) / s2 = (x - (m1 + s1 m2)) / (s1 s2)
        result = step if result is None else Normalisation(result.mean + result.std * step.mean, result.std * step.std)
    return result


# Whoever imports the class finds it registered, however the import began.
register()
