"""The backbone: position, attention, blocks and the model `DiT`."""

from dianjing.dit.conditioning import Conditioning
from dianjing.dit.motion.control import MotionControl
from dianjing.dit.transformer import DiT

__all__ = ["Conditioning", "DiT", "MotionControl"]
