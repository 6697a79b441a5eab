"""anomalib's exports with what this model needs beyond them."""

__all__ = ["ExportOverrides"]

from pathlib import Path
from typing import Any

from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.models.components.base.export_mixin import ExportMixin
from torchmetrics import Metric

from anomalib_scrd.export.openvino_outputs import keep_names_of_outputs
from anomalib_scrd.export.quantisation import quantise, quantise_with_accuracy_control

_OPSET = 18


class ExportOverrides(ExportMixin):
    """Methods of anomalib's ``ExportMixin``, for a module that has ``check_size`` and ``minimum_size``."""

    def to_onnx(
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
        self.check_size()  # type: ignore[attr-defined]
        if input_size is None and self.input_size is None:  # type: ignore[attr-defined]
            msg = (
                "the pre-processor has no Resize, and without one the exporter cannot write a model for images of any "
                f"size: give input_size, (height, width), each at least {self.model.minimum_size}, got None"
            )
            raise ValueError(msg)
        kwargs.setdefault("opset_version", _OPSET)
        return super().to_onnx(export_root, model_file_name, input_size, **kwargs)

    def to_openvino(self, *args: Any, **kwargs: Any) -> Path:
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
