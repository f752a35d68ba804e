"""Datasets, as NumPy; nothing here knows a model."""
