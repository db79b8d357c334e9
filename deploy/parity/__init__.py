"""Parity check: a verdict on whether an artifact computes the same as its model, from a float64 reference.

No fixed tolerance fits: outputs of real networks range from 1e-14 to 1e8. Every difference is therefore compared with
the rounding error of PyTorch's own float32 or float16 run on the same input.
"""
