"""Decisions from raw scores and maps: thresholds, calibrated scores, labels, outlines."""
