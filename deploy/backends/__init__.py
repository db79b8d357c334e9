"""One file for each thing that runs an artifact; each has ``open(path or model, options) -> Runner``."""
