"""Change the false-alarm rate of a checkpoint: ``python -m anomalib_scrd.decision CHECKPOINT --false_alarm_rate 0.01``.

Neither training nor images are needed: the checkpoint holds the scores of the normal images from which its thresholds
were found. Later exports and predictions of the checkpoint use the new thresholds.
"""

__all__ = ["change_rate", "main"]

import sys
from pathlib import Path

import torch

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.decision.post_processor import CalibratedPostProcessor
from anomalib_scrd.training.checkpoint_damage import explained_damage

_PREFIX = "post_processor."
_CONFIG = "anomalib_post_processor_config"


def change_rate(checkpoint: str | Path, rate: float, output: str | Path | None = None) -> str:
    """Find the thresholds of a checkpoint for another false-alarm rate.

    Args:
        checkpoint: Checkpoint of a trained model.
        rate: Share of normal images that are called anomalous, in (0, 1).
        output: File to write; None, the default, for the same file.

    Returns:
        A line about the new thresholds.

    Raises:
        ValueError: If the checkpoint does not hold the scores of normal images, or rate is out of range.
        OSError: If a file cannot be read or written.
    """
    with explained_damage(checkpoint):
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights = content["state_dict"]
    own = {name[len(_PREFIX) :]: value for name, value in weights.items() if name.startswith(_PREFIX)}
    if not len(own.get("normal_evidence", ())):
        msg = (
            f"checkpoint {str(checkpoint)!r} holds no scores of normal images, from which thresholds are found: "
            "validate it with normal images (anomalib validate)"
        )
        raise ValueError(msg)
    processor = CalibratedPostProcessor()
    processor.load_state_dict(own)
    processor.load_checkpoint_config(content.get(_CONFIG, {}))
    processor.false_alarm_rate = rate
    weights.update({f"{_PREFIX}{name}": value for name, value in processor.state_dict().items()})
    content[_CONFIG] = processor.checkpoint_config()
    with replacing(output or checkpoint, "checkpoint") as part, part.open("wb") as file:
        torch.save(content, file)
    return processor.describe()


def main(
    checkpoint: str,
    false_alarm_rate: float,
    output: str | None = None,
) -> None:
    """Change the false-alarm rate of a checkpoint.

    Args:
        checkpoint: Checkpoint of a trained model.
        false_alarm_rate: Share of normal images that are called anomalous, in (0, 1).
        output: File to write; default: the same file.
    """
    try:
        line = change_rate(checkpoint, false_alarm_rate, output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"threshold: {line}")  # noqa: T201
    print(f"checkpoint: {output or checkpoint}")  # noqa: T201


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=True)
