"""A name becomes a model."""
