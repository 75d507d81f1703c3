"""Multimodal data with a known answer: text, pictures, sound and film, and tastes for what they show, from a seed."""

from simulations.synthetic.answer import KnownAnswer, true_utilities
from simulations.synthetic.folder import write_synthetic

__all__ = ["KnownAnswer", "true_utilities", "write_synthetic"]
