"""Build models by name, with their weights."""
