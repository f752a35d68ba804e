"""Modalities to outputs."""
