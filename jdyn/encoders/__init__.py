"""One modality to features."""
