"""Is an artifact equal to its model? A verdict against a float64 reference, in the terms of rounding.

A fixed tolerance means nothing: outputs of real networks range from 1e-14 to 1e8. Each difference is
therefore measured against what PyTorch's own float32 run commits on the same input.
"""
