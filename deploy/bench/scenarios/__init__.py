"""How requests come; one file each. Without one they come one after the other, and only the call is timed."""
