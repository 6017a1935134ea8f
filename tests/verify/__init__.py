"""Statistics and long runs whose results are committed; see `records.py`."""
