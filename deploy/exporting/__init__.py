"""Export a PyTorch model to ONNX, and check an ONNX file against its model."""
