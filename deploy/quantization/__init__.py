"""INT8: calibration data, quantized graphs and the evidence for them."""

DEFAULT_METHOD = "mse"
"""How ranges are chosen unless the user says otherwise."""

DEFAULT_SAMPLES = 128
"""Number of calibration samples unless the user says otherwise."""

DEFAULT_EFFORT = "medium"
"""How much is tried to make the error of a quantized graph smaller, unless the user says otherwise."""

EFFORTS = ("low", "medium", "high")
"""Efforts, from the quickest; see `deploy.quantization.tuning`."""
