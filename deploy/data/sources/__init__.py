"""One file for each named data set; each has ``load(split, root) -> Dataset``; splits are ``train``, ``test``."""
