"""From a PyTorch model to a proven ONNX file."""
