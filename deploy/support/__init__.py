"""Helpers on top of PyTorch, ONNX, TensorRT and OpenVINO that several packages share."""
