"""Tasks: what the outputs of a model mean, and how they become detections."""
