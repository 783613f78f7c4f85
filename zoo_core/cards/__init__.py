"""Model cards, from what a checkpoint records and draws."""

from zoo_core.cards.pictures import write_pictures
from zoo_core.cards.text import card

__all__ = ["card", "write_pictures"]
