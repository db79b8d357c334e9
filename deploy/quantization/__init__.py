"""INT8: calibration data, quantized graphs and their evidence."""
