"""Packages for inference servers."""
