"""Weights: the models that have a name, where they come from, and the checks before they load."""
