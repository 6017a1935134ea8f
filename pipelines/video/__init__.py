"""Video generation: motion requests, windows of long videos, detail, and region animation for other pipelines."""
