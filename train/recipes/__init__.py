"""Recipes: the run files and commands that made every shipped weight."""
