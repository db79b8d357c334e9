"""One thin file a command, named as its workflow."""
