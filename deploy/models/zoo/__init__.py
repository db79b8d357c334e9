"""Networks written to be read, one architecture family a file; each file's `ENTRIES` lists what it offers."""
