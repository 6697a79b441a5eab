"""Synthetic anomalies: simplex noise and other kinds, and the generator of a training step."""

__all__ = ["MIXED", "NOISE_KINDS", "Normalisation", "SyntheticAnomalies", "step_generator"]

from anomalib_scrd.noise.seeding import step_generator
from anomalib_scrd.noise.synthesis import MIXED, NOISE_KINDS, Normalisation, SyntheticAnomalies
