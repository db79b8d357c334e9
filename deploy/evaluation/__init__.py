"""Accuracy: what a runner makes of labelled images, and whether two runners differ."""
