"""Exporters from one format to another; the module is named after both, ``torch_to_onnx``."""
