"""What runs the tasks of a sweep, one file each: this machine, a cluster."""
