"""The procedural, bilingual sticker world: the data the embedded model is trained on and measured against."""

from dianjing.train.stickers.world import CurriculumStage, StickerSample, StickerWorld

__all__ = ["CurriculumStage", "StickerSample", "StickerWorld"]
