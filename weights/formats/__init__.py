"""Published formats of weights: names of tensors, lazily read checkpoints, and conversion between them."""
