"""Exports of the model, with the training's scores, images of any size, and metadata."""

__all__ = ["ModelExport"]

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, InferenceBatch
from anomalib.deploy.export import CompressionType, ExportType
from torch.utils.data import DataLoader
from torchmetrics import Metric

from anomalib_scrd.export.files import completed_files
from anomalib_scrd.export.input_range import check_range, marked, out_of_range
from anomalib_scrd.export.metadata import description, write_onnx_metadata, write_openvino_metadata
from anomalib_scrd.export.openvino_core import one_core
from anomalib_scrd.export.openvino_outputs import keep_names_of_outputs
from anomalib_scrd.export.quantisation import compress_weights, quantise, quantise_with_accuracy_control
from anomalib_scrd.export.quantisation_images import calibration_images, labelled_images
from anomalib_scrd.export.resizing import network_size, transformed, unsupported
from anomalib_scrd.export.training_facts import TRAINING_FACTS, facts_of_images
from anomalib_scrd.integration.mixin_base import ModelMixin

logger = logging.getLogger(__name__)

_OPSET = 18
_ANY_RANGE = "pixels_beyond_0_to_1"
# Protocol buffers are limited to 2 GiB; the graph needs a few MiB in addition to the weights.
_ONE_FILE = 2**31 - 2**26


class ModelExport(ModelMixin):
    """Additions of :class:`~anomalib_scrd.lightning_model.ScaleAwareCRD` to anomalib's exports.

    Images of any size are resized in the graph, with anti-aliasing as in training. Files appear under their names when
    they are complete, and contain :mod:`metadata <anomalib_scrd.export.metadata>`.

    Attributes:
        training_facts: Facts of the training: ``images``, ``files_sha256``, ``steps``, and ``pixels_beyond_0_to_1`` if
            there are such pixels. Empty before the training.
    """

    training_facts: Mapping[str, Any] = {}

    def forward(self, batch: torch.Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:
        """Predict images as :meth:`anomalib.engine.Engine.predict` does.

        Args:
            batch: (B, 3, H, W) in [0, 1], of any size.
            *args: Unused.
            **kwargs: Unused.

        Returns:
            ``pred_score`` (B, ...), ``anomaly_map`` (B, 1, h, w) at the size of the training and, with a
            post-processor, ``pred_label`` and ``pred_mask``. An exported graph gives NaN for the score and map of an
            image with pixels below -0.5 or above 1.5, and labels it anomalous.

        Raises:
            ValueError: If pixels are below -0.5 or above 1.5, and those of the training were not.
        """
        del args, kwargs
        exporting, limited = torch.compiler.is_compiling(), not self.training_facts.get(_ANY_RANGE)
        if limited and not exporting:
            check_range(batch)
        transform = getattr(self.pre_processor, "transform", None)
        if transform is None:
            images = batch if self.pre_processor is None else self.pre_processor(batch)
        elif exporting:
            images = transformed(transform, batch)
        else:
            images = transform(batch)
        predictions = self.model(images)
        if self.post_processor is not None:
            predictions = self.post_processor(predictions)
        return marked(predictions, out_of_range(batch)) if limited and exporting else predictions

    def note_range(self, images: torch.Tensor) -> None:
        """Note whether the training has images out of [0, 1], from a custom reader; exports then accept them.

        Args:
            images: Some of them, (B, 3, H, W), before they are normalised.
        """
        if out_of_range(images).any():
            self.training_facts = {**self.training_facts, _ANY_RANGE: True}

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export to a file for anomalib's ``TorchInferencer``; arguments as in ``ExportMixin.to_torch``.

        The file is a pickled module: loading it needs this package, and ``TRUST_REMOTE_CODE=1`` in the environment.
        Predictions of the loaded module have no gradients.

        Raises:
            OSError: If the disk is full.
        """
        path = _path(export_root, ExportType.TORCH, f"{model_file_name}.pt")
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        try:
            for parameter in learned:
                parameter.requires_grad_(False)
            with completed_files(path) as folder:
                super().to_torch(folder / "export", model_file_name).rename(folder / path.name)
        finally:
            for parameter in learned:
                parameter.requires_grad_(True)
        return path

    def to_onnx(  # type: ignore[override]  # anomalib annotates Path by name only
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export to ONNX; arguments as in ``ExportMixin.to_onnx``, except for the last two.

        Args:
            export_root: Folder; the file is written to its ``weights/onnx``.
            model_file_name: Name of the file without suffix.
            input_size: (height, width) of the images, each at least the stride of the embedding. Needed if the
                pre-processor does not resize all images to one size; the file then takes this size only. Otherwise the
                file takes images of any size.
            **kwargs: Arguments of ``torch.onnx.export``. ``dynamic_axes={}`` fixes the shape of the input: one image of
                ``input_size``, or of the training's size without it. The weights are in the same file unless
                ``external_data=True`` is given or they exceed 2 GiB.

        Raises:
            ValueError: If ``input_size`` is needed and not given, the pre-processor makes images too small, or its
                interpolation is not bilinear.
            OSError: If the disk is full.
        """
        size = self._fixed_size(input_size, kwargs)
        kwargs.setdefault("opset_version", _OPSET)
        kwargs.setdefault("external_data", sum(tensor.nbytes for tensor in self.state_dict().values()) > _ONE_FILE)
        path = _path(export_root, ExportType.ONNX, f"{model_file_name}.onnx")
        document = description(self, size)
        with completed_files(path) as folder, self._labels_as_predicted():
            written = super().to_onnx(folder / "export", model_file_name, size, **kwargs)
            write_onnx_metadata(written, document, any_size=size is None)
            for file in written.parent.iterdir():
                file.rename(folder / file.name)
        return path

    def to_openvino(  # type: ignore[override]  # anomalib annotates Path by name only
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export to OpenVINO; arguments as in ``ExportMixin.to_openvino``, except for those below.

        Args:
            export_root: Folder; the files are written to its ``weights/openvino``.
            model_file_name: Name of the files without suffix.
            input_size: See :meth:`to_onnx`.
            compression_type: ``FP16`` or ``INT8`` (weights), ``INT8_PTQ`` (also activations) or ``INT8_ACQ`` (the same,
                as far as a metric allows); see :mod:`anomalib_scrd.export.quantisation`.
            datamodule: Images for ``INT8_PTQ`` and ``INT8_ACQ``; none of its test images is used.
            metric: For ``INT8_ACQ``, higher is better; None, the default, for the F1 score of images.
            task: Unused.
            max_drop: Largest drop of the metric, in [0, 1]; default 0.01.
            ov_kwargs: Arguments of ``openvino.convert_model``.
            onnx_kwargs: Arguments of ``torch.onnx.export``.

        Returns:
            The .xml file.

        Raises:
            ValueError: As in :meth:`to_onnx`, or if a quantisation lacks images or its arguments are out of range.
            OSError: If the disk is full.
        """
        del task
        import openvino

        onnx_kwargs = dict(onnx_kwargs or {})
        loaders = self._quantisation_images(compression_type, datamodule, max_drop)  # errors before the long work
        size = self._fixed_size(input_size, onnx_kwargs)
        path = _path(export_root, ExportType.OPENVINO, f"{model_file_name}.xml")
        with completed_files(path) as folder:
            onnx = self.to_onnx(folder / "onnx", model_file_name, input_size, **onnx_kwargs)
            model = openvino.convert_model(onnx, **(ov_kwargs or {}))
            with one_core():
                if compression_type == CompressionType.INT8:
                    model = compress_weights(model)
                elif compression_type == CompressionType.INT8_PTQ:
                    model = quantise(model, *loaders)
                elif compression_type == CompressionType.INT8_ACQ:
                    model = quantise_with_accuracy_control(model, *loaders, metric=metric, max_drop=max_drop)
            document = description(self, size)
            keep_names_of_outputs(model, document["outputs"])
            write_openvino_metadata(model, document, any_size=size is None)
            openvino.save_model(model, folder / path.name, compress_to_fp16=compression_type == CompressionType.FP16)
        return path

    def on_train_start(self) -> None:
        """Note the images of the training."""
        super().on_train_start()
        self.training_facts = facts_of_images(self.trainer)

    def on_train_end(self) -> None:
        """Note the number of steps of the training."""
        super().on_train_end()
        self.training_facts = {**self.training_facts, "steps": self.trainer.global_step}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the facts of the training, for exports."""
        super().on_save_checkpoint(checkpoint)
        facts = dict(self.training_facts)
        if facts:  # the trainer of a test has no steps
            facts["steps"] = max(facts.get("steps", 0), checkpoint.get("global_step", 0))
        checkpoint[TRAINING_FACTS] = facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the facts of the training."""
        super().on_load_checkpoint(checkpoint)
        self.training_facts = checkpoint.get(TRAINING_FACTS, {})

    def _quantisation_images(
        self, compression: CompressionType | None, datamodule: AnomalibDataModule | None, max_drop: float
    ) -> list[DataLoader]:
        """Loaders of the images for a quantisation: none, normal ones, or normal and labelled ones."""
        if compression not in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}:
            return []
        if datamodule is None:
            msg = f"{compression.name} needs a datamodule with normal images (--data on the command line), got None"
            raise ValueError(msg)
        if not 0 <= max_drop <= 1:
            msg = f"max_drop must be in [0, 1], got {max_drop}"
            raise ValueError(msg)
        images = calibration_images(datamodule, getattr(self, "held_out", None))
        return [images] if compression == CompressionType.INT8_PTQ else [images, labelled_images(datamodule)]

    @contextmanager
    def _labels_as_predicted(self) -> Iterator[None]:
        """Leave labels and masks out of the graph if predictions have none because there is no threshold."""
        post: Any = self.post_processor
        if getattr(post, "has_thresholds", True) or not post.enable_thresholding:
            yield
            return
        logger.warning("the model has no threshold: the exported file has raw scores and maps, and no labels")
        post.enable_thresholding = False
        try:
            yield
        finally:
            post.enable_thresholding = True

    def check_size(self) -> None:
        """Refuse a pre-processor that makes images too small, if the model's class does so."""

    def _fixed_size(self, input_size: tuple[int, int] | None, onnx_kwargs: Mapping[str, Any]) -> tuple[int, int] | None:
        """The only size of images for an exported file, or None for any size; checks arguments before the export."""
        transform = getattr(self.pre_processor, "transform", None)
        interpolation = unsupported(transform)
        if interpolation is not None:
            msg = (
                f"the pre-processor's Resize has interpolation {interpolation!r}, and exports resize bilinearly only: "
                "train with bilinear interpolation"
            )
            raise ValueError(msg)
        self.check_size()
        size = network_size(transform)
        if size is None and input_size is None:
            resizes = self.input_size is not None
            reason = (
                "resizes to one number, which keeps the aspect ratio: the size of the networks' input differs from "
                "image to image"
                if resizes
                else "has no Resize"
            )
            way_out = ", or train with Resize((height, width)), for a file that takes images of any size"
            msg = (
                f"the pre-processor {reason}, and without one size the exporter cannot write a model: give input_size, "
                f"(height, width), each at least {self.model.minimum_size}, for a file that takes images of this size "
                f"only{way_out if resizes else ''}; got None"
            )
            raise ValueError(msg)
        if size is None or {"dynamic_axes", "dynamic_shapes"} & set(onnx_kwargs):
            return input_size or size
        if input_size is not None:
            logger.info(
                "the exported model takes images of any size and resizes them to %d x %d, as the training did: "
                "input_size %s has no effect",
                *size,
                tuple(input_size),
            )
        return None


def _path(export_root: Path | str, kind: ExportType, name: str) -> Path:
    """Path of an exported file, as in anomalib."""
    return Path(export_root) / "weights" / kind.value / name
