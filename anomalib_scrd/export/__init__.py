"""What an exported file needs beyond anomalib's own export."""
