"""Commands that look after artifacts and the machine."""
