"""Accuracy: what a runner makes of labeled images, and whether two runners differ."""
