"""One file for each named data set, with ``load(split, root) -> Dataset`` for ``train`` and ``test``."""
