"""The backbone: position, attention, blocks and the model `DiT`."""

from dianjing.dit.click import Click
from dianjing.dit.condition import Condition
from dianjing.dit.model import DiT

__all__ = ["Click", "Condition", "DiT"]
