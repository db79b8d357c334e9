"""Where models come from: one file per source, whose name is the prefix of its models.

Each file has:

- ``names() -> list[str]``: the models, without the prefix.
- ``summary(name) -> str``: a description in one line, or an empty text.
- ``build(name, request) -> Model``: the model with the weights that its constructor draws; raises `UsageError`
  for an option that the architecture does not take.
- ``published(name, model) -> tuple[str, str] | None``: URL and label of the published weights, if any.
"""
