"""Scripts that reproduce the figures in the documentation."""
