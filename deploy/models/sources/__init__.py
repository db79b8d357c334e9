"""One file for each place models come from; the file name is the prefix of their full names.

Each has ``names() -> list of bare names``, ``build(name, request) -> Model`` (weights as the constructor draws
them) and ``published(name, model) -> path and label of published weights, or None``.
"""
