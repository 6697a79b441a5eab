"""`ScaleAwareCRD`: the model as anomalib trains, tests and exports it."""

__all__ = ["ScaleAwareCRD"]

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import nn
from typing_extensions import Unpack

from anomalib_scrd.data.explained_errors import ExplainedDataErrors
from anomalib_scrd.data.patient_scores import PatientScores
from anomalib_scrd.data.prediction import read_any_format
from anomalib_scrd.data.stored_window import share_window
from anomalib_scrd.export.mixin import ModelExport
from anomalib_scrd.integration.checkpoints import ModelCheckpoints
from anomalib_scrd.integration.command_line import short_errors
from anomalib_scrd.integration.default_components import DefaultComponents
from anomalib_scrd.integration.registration import register
from anomalib_scrd.loss import LossTerms, ScaleAwareContrastiveLoss
from anomalib_scrd.noise import Normalisation, SyntheticAnomalies, step_generator
from anomalib_scrd.options import (
    GroupValue,
    LossOptions,
    NoiseOptions,
    OptimiserOptions,
    RenamedArguments,
    ScoringOptions,
    StudentOptions,
    number,
    plain,
    refuse_renamed,
    switch,
    whole_number,
)
from anomalib_scrd.presets import PresetName, resolved, without_effect
from anomalib_scrd.torch_model import ScaleAwareCRDModel
from anomalib_scrd.training import checkpoint_files  # not its names: it may be what imports anomalib
from anomalib_scrd.training.compilation import REDUCE_OVERHEAD, CompiledModules
from anomalib_scrd.training.console import tidy
from anomalib_scrd.training.data_checks import check_run, check_size, check_tiling
from anomalib_scrd.training.feature_cache import FeatureCache
from anomalib_scrd.training.full_batches import FullBatches, explained_batch_norm_error
from anomalib_scrd.training.held_out import HeldOut
from anomalib_scrd.training.image_order import ImageOrder
from anomalib_scrd.training.kept_images import KeptImages
from anomalib_scrd.training.logged_terms import named_terms
from anomalib_scrd.training.own_length import OwnLength, has_no_length
from anomalib_scrd.training.resuming import ResumedOrder
from anomalib_scrd.training.run_report import RunReport
from anomalib_scrd.training.scale_weights import ScaleWeights
from anomalib_scrd.training.schedule import optimiser_and_schedule
from anomalib_scrd.training.seeding import seeded_weights
from anomalib_scrd.training.validation_times import ValidationTimes

logger = logging.getLogger(__name__)


class ScaleAwareCRD(DefaultComponents, ImageOrder, ScaleWeights, ModelExport, ModelCheckpoints, AnomalibModule):
    """Scale-Aware Contrastive Reverse Distillation for anomaly detection, trained on normal images only.

    Li, Shi, Hu, Zhu, Mou: "Scale-Aware Contrastive Reverse Distillation for Unsupervised Medical Anomaly Detection",
    ICLR 2025. The preset ``published`` has the paper's settings.

    A training without a number of steps or epochs and without a time limit ends automatically, after 3,000 or 7,000
    steps (40,000 without a schedule): see :class:`~anomalib_scrd.training.own_length.OwnLength`.

    Args:
        preset: Defaults of all arguments: ``default``, ``published`` (the paper's) or ``edge`` (a small teacher and
            student, for computers without an accelerator).
        backbone: Name of a timm model, the teacher; None for the preset's.
        layers: Names of the backbone's feature maps, finest first, two or more; None for those of strides 4, 8 and 16.
        pre_trained: True for timm's ImageNet weights, from the hub, its cache or the ``offline`` extra; False for
            random weights; or the path of a .safetensors or .pth file.
        student: Blocks of the student, and its target (:class:`~anomalib_scrd.options.StudentOptions`). A group is
            given as its class or as a dict of fields; a field that is left out has the preset's value.
        loss: Weights of the terms of the loss (:class:`~anomalib_scrd.options.LossOptions`).
        noise: Synthetic anomalies (:class:`~anomalib_scrd.options.NoiseOptions`).
        scoring: Anomaly map and image score (:class:`~anomalib_scrd.options.ScoringOptions`).
        optimiser: Optimiser and learning rate (:class:`~anomalib_scrd.options.OptimiserOptions`).
        feature_cache: Memory of the model's device, in GiB per process, for the teacher's features of clean training
            images, which are then computed in the first epoch only; in [0, 10000], 0 for none. Not allowed with
            augmentations.
        compile_model: Whether to train with ``torch.compile``, which needs a compiler; validation, tests and exports
            run uncompiled. ``reduce-overhead`` also records the kernels of a GPU as CUDA graphs, for small students,
            whose kernels take less time than their launches; accumulated gradients are not allowed with it.
        seed: Seed of the student's weights, of the order of the training images and of the synthetic anomalies, in
            [0, 2**63 - 1], also on anomalib's command line, where ``--seed_everything`` has no effect. A resumed
            training gives the same result as an uninterrupted one, also if it stopped within an epoch, but not if
            Ctrl-C interrupted a step. None draws from the global random state.
        pre_processor: Pre-processor, or whether to use the default one.
        post_processor: Post-processor, or whether to use the default one.
        evaluator: Evaluator, or whether to use the default one.
        visualizer: Visualizer, or whether to use the default one.
        **renamed: Argument names of earlier versions; they raise an error with the new name.

    Raises:
        ValueError: If an argument is out of range; the message names it, its value and what is allowed.
        RuntimeError: If the pretrained weights cannot be downloaded; the message lists the alternatives.
        FileNotFoundError: If ``pre_trained`` is a path and there is no such file.
        TypeError: If an argument is unknown.

    Example:
        >>> from anomalib.engine import Engine
        >>> from anomalib_scrd import PhantomSlices, ScaleAwareCRD
        >>> model = ScaleAwareCRD(backbone="resnet18", pre_trained=False, scoring={"sigma": 3.0})
        >>> Engine(max_steps=10).fit(model, datamodule=PhantomSlices())  # doctest: +SKIP
    """

    model: ScaleAwareCRDModel
    loss: ScaleAwareContrastiveLoss

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
        feature_cache: float = 0.0,
        compile_model: bool | Literal["reduce-overhead"] = False,
        seed: int | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        **renamed: Unpack[RenamedArguments],
    ) -> None:
        tidy()
        with short_errors():
            read_any_format(ScaleAwareCRD)
            refuse_renamed(renamed)
            groups = {"student": student, "loss": loss, "noise": noise, "scoring": scoring, "optimiser": optimiser}
            chosen = resolved(preset, backbone, **groups)
            for name, reason in without_effect(preset, chosen):
                logger.warning("%s has no effect: %s", name, reason)
            # `super().__init__` saves these names for checkpoints, which load weights-only: plain lists, dicts, numbers
            # and strings. They hold every value, so that another version's presets change nothing.
            backbone, layers, pre_trained = chosen.backbone, plain(layers), plain(pre_trained)
            student, loss, noise = chosen.student.as_dict(), chosen.loss.as_dict(), chosen.noise.as_dict()
            scoring, optimiser = chosen.scoring.as_dict(), chosen.optimiser.as_dict()
            feature_cache = number("feature_cache", plain(feature_cache), low=0, high=10_000)
            compile_model = switch("compile_model", compile_model, REDUCE_OVERHEAD)
            seed = None if seed is None else whole_number("seed", plain(seed), low=0, high=2**63 - 1)
            super().__init__(
                pre_processor=pre_processor,
                post_processor=post_processor,
                evaluator=evaluator,
                visualizer=visualizer,
            )
            self.loss = ScaleAwareContrastiveLoss(**loss)
            self.synthetic_anomalies = SyntheticAnomalies(**{name: noise[name] for name in noise if name != "share"})
            self.held_out = HeldOut(scoring["held_out"])
            self.own_length = OwnLength()
            self.feature_cache = FeatureCache(feature_cache) if feature_cache > 0 else None
            with seeded_weights(seed):
                self.model = ScaleAwareCRDModel(preset, backbone, layers, pre_trained, student, scoring)
            mode = REDUCE_OVERHEAD if compile_model == REDUCE_OVERHEAD else None
            parts = (self.model, self.model.teacher, self.loss) if compile_model else ()
            self.compiled = CompiledModules(*parts, mode=mode)
            self._seed = seed
            self._batches_seen = self._epoch_began = 0
            self._full_batches = FullBatches()
            self._normalisation: Normalisation | None = None
            self._terms: tuple[LossTerms, int] | None = None

    @property
    def trainer(self) -> Trainer:
        """The trainer that the model is attached to."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self.without_length = trainer is not None and has_no_length(trainer)
        AnomalibModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]  # a property

    def setup(self, stage: str) -> None:
        """Check sizes and data before the work starts.

        Raises:
            ValueError: If the pre-processor makes the images too small, or the data module would fail for lack of
                validation images.
            UnreadableImageError: If files cannot be read as images.
        """
        self.check_size()
        check_tiling(self.model, cached=self.feature_cache is not None)
        share_window(self, self.trainer)
        check_run(self.trainer, stage, getattr(self.pre_processor, "transform", None))
        checkpoint_files.write_atomically(self.trainer)
        if stage == "fit":
            # A checkpoint is loaded later and overwrites these values.
            self._seed, self._batches_seen, self._epoch_began = self.hparams["seed"], 0, 0

    def check_size(self) -> None:
        """Refuse a pre-processor that makes images too small.

        Not called in the constructor, because anomalib builds the model with a pre-processor for 10 x 10 pixels to read
        its metrics.

        Raises:
            ValueError: If its size is below the model's smallest.
        """
        check_size(self.input_size, self.model, self.hparams["backbone"])

    def configure_callbacks(self) -> list[Callback]:
        """Add the callbacks that a training of this model needs to anomalib's."""
        callbacks = super().configure_callbacks()
        own = [self.held_out, self.own_length, KeptImages(), ResumedOrder(), ValidationTimes(), RunReport()]
        own += [ExplainedDataErrors(), PatientScores(), self.compiled]
        if self.feature_cache is not None:
            own.append(self.feature_cache)
        return [*(callbacks if isinstance(callbacks, Sequence) else [callbacks]), *own]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over bottleneck, student and scale adaptation, and its learning rate."""
        self.seed_order()  # reading the number of steps starts the loader of the first epoch
        options, cycles = self.hparams["optimiser"], self.own_length.cycles
        return optimiser_and_schedule(self.model.trainable_parameters(), options, self.trainer, cycles)

    def on_fit_start(self) -> None:
        """Fix the seed, read the pre-processor's normalisation, and drop images kept from an earlier training."""
        self._full_batches = FullBatches()
        if self._seed is None:
            self._seed = torch.initial_seed() % 2**63
        self._normalisation = self.normalisation()

    def on_train_start(self) -> None:
        """Reset the statistics of the data, unless the training resumes from a checkpoint.

        A second ``fit`` of the same model can be on other data: the standardisation of the channels is measured again,
        and the student continues from its present weights.
        """
        super().on_train_start()
        if self.trainer.ckpt_path is None:
            self.model.reset_statistics()

    def on_fit_end(self) -> None:
        """Drop the images kept for filling up a batch."""
        self._full_batches = FullBatches()

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
        # A plain tensor: torch.compile of torch 2.10 and 2.11 recurses endlessly into torchvision's subclass.
        images = cast("torch.Tensor", batch.image).as_subclass(torch.Tensor)
        paths = getattr(batch, "image_path", None)
        if self.hparams["optimiser"]["fill_last_batch"]:
            images, paths = self._full_batches(images, paths)
        images = self.model.tiles(images)
        noisy = mask = None
        if self.loss.needs_noisy:
            generator = step_generator(self._seed or 0, self._batches_seen, rank=self.global_rank, device=images.device)
            count = math.ceil(self.hparams["noise"]["share"] * len(images))
            noisy, mask = self.compiled.anomalies(
                self.synthetic_anomalies,
                images[:count],
                generator=generator,
                turn=self._batches_seen,
                normalisation=self._normalisation,
            )
        self.compiled.begin_step()
        teacher = self.compiled(self.model.teacher)
        if self.feature_cache is None:
            known = teacher(images if noisy is None else torch.cat([images, noisy]))
        else:
            known = self.feature_cache.features(teacher, images, noisy, paths)
        standardise = self.model.standardise
        # Outside of the compiled model, which is thus the same in all steps.
        if standardise is not None and self._batches_seen < standardise.batches:
            standardise.update([feature[: len(images)] for feature in known])
        self._batches_seen += 1
        with explained_batch_norm_error(images):
            features = self.compiled(self.model)(
                images, noisy, restore=self.loss.needs_restored, teacher_features=known
            )
        terms = self.compiled(self.loss)(
            features.clean,
            features.student,
            noisy=features.noisy,
            restored=features.restored,
            mask=mask,
            weights=features.weights,
        )
        # Logging synchronises with the host: the terms are kept, and logged only in steps that write a row.
        # The same holds for the number in the progress bar, which Lightning reads in every step, even without a bar.
        self._terms = terms._replace(total=terms.total.detach()), images.shape[0]
        self.log("train_loss", self._terms[0].total, on_step=True, on_epoch=True, batch_size=images.shape[0])
        return terms.total

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predict a batch; the post-processor takes its thresholds from the result."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Log the terms of the step whose row goes to the loggers.

        Whether a row is written is known only in this hook: gradients may be accumulated over batches, and the training
        may have been stopped.
        """
        del outputs, batch, batch_idx
        steps: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if self._terms is None or not steps:
            return
        if self.global_step % steps == 0 or self.trainer.should_stop:
            terms, batch_size = self._terms
            self.log_dict(named_terms(terms, self.model.teacher.layers), batch_size=batch_size)
            self.log("loss", terms.total.cpu(), prog_bar=True, logger=False, batch_size=batch_size)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer arguments that this model fixes; the user sets the length."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """One class: only normal images are needed."""
        return LearningType.ONE_CLASS


# Registered here too, so that any order of imports works.
register(ScaleAwareCRD)
