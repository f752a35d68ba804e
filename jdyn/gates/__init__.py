"""Features to weights over paths."""
