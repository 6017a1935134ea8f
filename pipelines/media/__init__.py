"""Image and video files: reading, atomic writing, generation metadata and AIGC labels."""
