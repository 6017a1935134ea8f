"""The training loop, and what it is made of: optimizers, averages, checkpoints, logs, distributed training."""
