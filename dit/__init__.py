"""Backbone: the diffusion transformer `DiT`, its conditioning and its motion control."""

from diffusers.models.modeling_utils import ModelMixin as ModelMixin  # diffusers seeks it beside a class that it loads

from dianjing.dit.conditioning import Conditioning
from dianjing.dit.motion.control import MotionControl
from dianjing.dit.transformer import DiT

__all__ = ["Conditioning", "DiT", "MotionControl"]
