"""Nouns shared by every room: standard library and numpy only."""
