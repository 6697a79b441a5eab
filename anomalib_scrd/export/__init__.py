"""Exports: additions to anomalib's own."""
