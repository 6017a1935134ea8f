"""The recipes that made every shipped weight."""
