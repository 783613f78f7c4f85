"""One loop over Accelerate, the same on a laptop and under ``accelerate launch -m zoo_core.training``."""

from zoo_core.training.loop import train
from zoo_core.training.post_hoc import fit_prior
from zoo_core.training.reading import read_recipe
from zoo_core.training.recipe import Recipe

__all__ = ["Recipe", "fit_prior", "read_recipe", "train"]
