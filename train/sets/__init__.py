"""Data sets of files: found, looked through, dealt into buckets, read."""
