"""Packages for servers."""
