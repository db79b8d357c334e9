"""Command line: one module per command, which parses arguments and calls the command's function."""
