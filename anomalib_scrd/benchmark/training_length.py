"""How long to train, told by normal images that no model was trained on."""

__all__ = ["LEAST_GAIN", "check_kind", "held_out_distance", "pays"]

from torch.utils.data import DataLoader

from anomalib_scrd.benchmark.scales import held_out_scales
from anomalib_scrd.lightning_model import ScaleAwareCRD

# A longer training has to bring the student this share nearer to the teacher on images that it has not seen: less is
# not worth its time. A student that only learns its training images by heart moves away from it.
LEAST_GAIN = 0.02


def check_kind(model_class: type) -> None:
    """Raise TypeError unless models of this class have the distance that chooses."""
    if not issubclass(model_class, ScaleAwareCRD):
        msg = (
            "lengths needs a ScaleAwareCRD, whose distance to its teacher tells what a training has brought, got "
            f"{model_class.__name__}"
        )
        raise TypeError(msg)


def held_out_distance(model: ScaleAwareCRD, batches: DataLoader) -> float:
    """Distance of the student to the teacher on normal images that it was not trained on.

    Args:
        model: A trained model.
        batches: Normal images.

    Returns:
        Mean over the images of the sum over the scales, in [0, 2 K].
    """
    distances, _ = held_out_scales(model, batches)
    return distances.sum(dim=1).double().mean().item()


def pays(before: float, after: float) -> bool:
    """Whether a longer training was worth it, by the held-out distances of the shorter and the longer one."""
    return after <= (1 - LEAST_GAIN) * before
