"""Data modules: drawn phantom slices for the quick start, and the seven sets of the MedIAnomaly benchmark."""

__all__ = ["MedIAnomaly", "PhantomSlices"]

from anomalib_scrd.data.medianomaly import MedIAnomaly
from anomalib_scrd.data.phantom import PhantomSlices
