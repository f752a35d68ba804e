"""Mergeable sums on the device, scores on the host."""
