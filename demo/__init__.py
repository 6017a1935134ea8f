"""The web demo: a queue for each device, a page for people and an HTTP API for programs."""
