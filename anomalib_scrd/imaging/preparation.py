"""Preparation of a picture as a model's input, and conversion of a map back to the file's order."""

__all__ = ["Preparation", "Prepared"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anomalib_scrd.imaging.orientation import Orientation
from anomalib_scrd.imaging.padding import Padding, square
from anomalib_scrd.imaging.picture import Picture
from anomalib_scrd.imaging.volumes import VolumeOptions
from anomalib_scrd.imaging.window import Window


@dataclass(frozen=True)
class Prepared:
    """A picture as a model's input.

    Args:
        image: (H, W), or (H, W, 3) in colour, float32 in [0, 1], in the display's order.
        padding: Padding around it.
        orientation: Transformation from the file's order to the display's.
    """

    image: np.ndarray
    padding: Padding
    orientation: Orientation

    @property
    def channels(self) -> np.ndarray:
        """The image as (H, W, 3); a grey image in three equal channels, as a view."""
        image = self.image
        return image if image.ndim == 3 else np.broadcast_to(image[..., None], (*image.shape, 3))  # noqa: PLR2004

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Convert a map back to the rows and columns of the file.

        Args:
            array: (H, W) or (H, W, C), of the size of ``image``: a map of another size is resized first.

        Returns:
            A view without padding, in the file's order.

        Raises:
            ValueError: If the map has another size than ``image``.
        """
        if array.shape[:2] != self.image.shape[:2]:
            msg = f"the map has {array.shape[:2]} pixels and the image {self.image.shape[:2]}: resize it first"
            raise ValueError(msg)
        return self.orientation.undo(self.padding.undo(array))


@dataclass(frozen=True)
class Preparation:
    """Settings for the preparation of files as a model's input.

    Args:
        window: Window of grey values.
        pad_to_square: Whether pictures are padded to a square with black; default false.
        volumes: Slices that are taken from a volume.
    """

    window: Window
    pad_to_square: bool = False
    volumes: VolumeOptions = field(default_factory=VolumeOptions)

    def __call__(self, picture: Picture) -> Prepared:
        """Prepare a picture.

        Args:
            picture: Picture of ``read_picture``.

        Returns:
            The input, with the information for the conversion back.

        Raises:
            UnreadableImageError: If the window does not fit the picture.
        """
        image = self.window.apply(picture)
        padding = square(image.shape[0], image.shape[1], picture.spacing) if self.pad_to_square else Padding()
        return Prepared(padding.apply(image), padding, picture.orientation)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain lists, numbers and strings: the window's keys, and those of the other arguments.

        Returns:
            A dict for JSON and checkpoints.
        """
        return {**self.window.to_dict(), "pad_to_square": self.pad_to_square, "volumes": self.volumes.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Preparation":
        """Rebuild a preparation.

        Args:
            state: Result of :meth:`to_dict`, also through JSON.

        Returns:
            The preparation.

        Raises:
            ValueError: If a newer version wrote it.
        """
        volumes = VolumeOptions(**state.get("volumes", {}))
        return cls(Window.from_dict(state), bool(state.get("pad_to_square", False)), volumes)
