"""From one format to the next: the file name is the edge, ``torch_to_onnx``."""
