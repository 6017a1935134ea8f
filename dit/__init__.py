"""The backbone: position, attention, blocks and the model `DiT`."""
