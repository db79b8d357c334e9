"""What changes when packages are upgraded: every file is made, checked and timed again beside the one that is there."""
