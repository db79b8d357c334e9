"""Measuring time: the clock, the order of things, and what may be said of the numbers."""
