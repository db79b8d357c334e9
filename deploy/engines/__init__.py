"""Files made from an ONNX export: TensorRT engines, and other formats."""
