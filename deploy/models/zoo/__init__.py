"""Classic networks in readable code, one file per family; `ENTRIES` of a file lists its networks."""
