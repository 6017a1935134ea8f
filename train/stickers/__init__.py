"""The sticker world: procedural pictures with captions in Chinese and English."""
