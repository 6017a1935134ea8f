"""Tasks: what is trained, and how it is built from a run file."""
