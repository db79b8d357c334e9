"""An ONNX file as a PyTorch module, so that it can be a model like any other: the reference of a parity check."""
