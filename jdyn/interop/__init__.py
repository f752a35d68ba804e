"""Readers for files of other code bases; they execute nothing."""
