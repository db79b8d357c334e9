"""Backends, one folder each: ``__init__.py`` declares the backend, ``runner.py`` imports the runtime."""
