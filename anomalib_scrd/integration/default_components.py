"""Default post-processor, evaluator and visualizer of the model."""

__all__ = ["DefaultComponents"]


from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule

from anomalib_scrd.decision.evaluation import DecisionEvaluator
from anomalib_scrd.decision.post_processor import CalibratedPostProcessor
from anomalib_scrd.integration.mixin_base import ModelMixin
from anomalib_scrd.training.pre_processing import TrainingPreProcessor
from anomalib_scrd.visualisation.visualizer import DecisionVisualizer


class DefaultComponents(ModelMixin):
    """Components of :class:`~anomalib_scrd.lightning_model.ScaleAwareCRD` instead of anomalib's."""

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> TrainingPreProcessor:
        """The resize and the normalisation of anomalib's own, by default to 256 x 256 pixels."""
        return TrainingPreProcessor(AnomalibModule.configure_pre_processor(image_size).transform)

    def configure_post_processor(self) -> CalibratedPostProcessor:
        """Thresholds by a false-alarm rate on normal images, or by the best F1 if there are real anomalies."""
        return CalibratedPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """AUROC and F1 of images and pixels, NaN where undefined."""
        return DecisionEvaluator()

    @classmethod
    def configure_visualizer(cls) -> DecisionVisualizer:
        """Pictures with score, label and threshold, and a table of predictions."""
        return DecisionVisualizer()
