"""TensorRT engines: built, proven and inspected."""
