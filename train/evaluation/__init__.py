"""Evaluation: metrics of generated images, videos and conversations, and the commands that report them."""
