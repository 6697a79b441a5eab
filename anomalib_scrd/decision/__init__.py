"""From raw scores and maps to what a user decides by: thresholds, calibrated scores, labels, outlines."""
