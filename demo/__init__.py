"""The web demo: one worker for each device, a page for people and an HTTP API for programs."""
