"""Where models come from: one file per source, whose name is the prefix of its models.

Each file has:

- ``names() -> list[str]``: the models, without the prefix; empty if they cannot be listed, so that any is tried.
- ``summary(name) -> str``: a description in one line, or an empty text.
- ``build(name, request) -> Model``: the model with the weights that its constructor draws, or with loaded ones if its
  ``weights`` say so; raises `UsageError` for an option that the architecture does not take.
- ``published(name, model) -> tuple[str, str] | None``: URL and label of the published weights, if any; may raise
  `WeightsError` with the reason why there are none.
"""
