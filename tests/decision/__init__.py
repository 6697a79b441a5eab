"""Thresholds, calibrated scores, labels and outlines."""
