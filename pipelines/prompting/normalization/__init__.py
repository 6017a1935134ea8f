"""Normalization of prompts for a model with a closed vocabulary."""
