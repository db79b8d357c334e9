"""ONNX operators in PyTorch, one family a file."""
