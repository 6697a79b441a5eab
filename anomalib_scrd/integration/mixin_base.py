"""Base class of the model's mixins."""

__all__ = ["ModelMixin"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as ModelMixin
else:
    ModelMixin = object  # anomalib would list a subclass of its module as a model
