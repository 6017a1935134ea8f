"""Training data: samples, schedules, batches, and the cache of latents and text-encoder states."""
