"""Synthetic anomalies: noise fields, patches, and adding them to images."""

__all__ = ["NOISE_KINDS", "AnomalyParameters", "SyntheticAnomalies", "noise_field", "step_generator"]

from anomalib_scrd.noise.fields import NOISE_KINDS, noise_field
from anomalib_scrd.noise.seeding import step_generator
from anomalib_scrd.noise.synthesis import AnomalyParameters, SyntheticAnomalies
