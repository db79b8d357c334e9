"""Statistics that choose the INT8 range of a tensor, one module each: ``choose(histogram, grid)``."""
