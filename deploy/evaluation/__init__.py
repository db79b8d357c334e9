"""Accuracy: what runners predict for labeled images, and whether two of them differ."""
