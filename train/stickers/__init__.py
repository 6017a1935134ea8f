"""The procedural, bilingual sticker world: the data the embedded model is trained on and measured against."""

from dianjing.train.stickers.world import Sample, Stage, World

__all__ = ["Sample", "Stage", "World"]
