"""Terminal output of the commands, drawn with Rich."""
