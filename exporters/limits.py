"""What a file can hold; apart, since it is wanted without what writes one."""

SINGLE_FILE_LIMIT = 2**31 - 2**20
"""Bytes: protobuf's 2 GB, less room for the graph itself."""
