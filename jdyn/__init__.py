"""Dynamic multimodal fusion in JAX."""
