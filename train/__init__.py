"""The trainer: data, objectives, checkpoints and evaluation."""
