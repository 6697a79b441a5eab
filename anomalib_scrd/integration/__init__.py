"""Registration with anomalib, the start-up file and the command line."""
