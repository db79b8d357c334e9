"""Scripts that reproduce every figure the documents quote."""
