"""Bundled data sets, one file each, with ``load(split, root) -> Dataset`` for the splits ``train`` and ``test``."""
