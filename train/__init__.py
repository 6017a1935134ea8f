"""Training: run files, data, tasks, the training loop, evaluation and recipes."""
