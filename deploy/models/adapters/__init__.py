"""What a model needs before it is exported: one file for each convention of modules, applied by their attributes.

Each file has:

- ``WHAT``: what is done, in the words of a note.
- ``applies(module) -> bool``: whether a module follows the convention and is not prepared yet.
- ``apply(module) -> None``: prepares it, in place.

`deploy.models.adapt` tries each on a copy of the model and compares the outputs before and after. A package adds one
with an entry point in the group ``deploy.models.adapters``.
"""
