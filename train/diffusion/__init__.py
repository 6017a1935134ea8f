"""Noise processes, training targets, loss weights and timestep distributions."""
