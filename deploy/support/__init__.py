"""Ground that several rooms stand on; it knows torch or onnx, and nothing of the rooms."""
