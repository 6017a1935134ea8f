"""Backbone: the diffusion transformer `DiT`, its conditioning and its motion control."""

from dianjing.dit.conditioning import Conditioning
from dianjing.dit.motion.control import MotionControl
from dianjing.dit.transformer import DiT

__all__ = ["Conditioning", "DiT", "MotionControl"]
