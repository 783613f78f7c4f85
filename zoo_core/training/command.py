"""The command that trains: said once in a shell, and carried out in each of the run's processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_core.errors import ConfigError
from zoo_core.training.loop import train
from zoo_core.training.reading import overridden, parse_recipe, read_recipe, recipe_content
from zoo_core.training.recipe import Recipe
from zoo_core.training.tuning.fine_tuning import recipe_from


@dataclass(frozen=True, kw_only=True)
class Command:
    """What was asked for.

    Attributes:
        recipe: a file, or the name of an installed one; without it that of the model ``start``.
        overrides: KEY=VALUE at dotted paths.
        output: the run's folder; default ``runs/NAME``.
        resume: ``"auto"``, or the run or checkpoint to begin from.
        start: a finished model that is trained further, at that ``revision``.
    """

    recipe: str | None
    overrides: Sequence[str] = ()
    output: Path | None = None
    resume: str = "auto"
    start: str | None = None
    revision: str | None = None

    def plan(self) -> Recipe:
        """The recipe. Raises as ``read_recipe`` and ``recipe_from``."""
        if self.start is None:
            if self.recipe is None:
                raise ConfigError("name a recipe; 'zoo train --list' lists the installed ones")
            return read_recipe(self.recipe, self.overrides)
        content = recipe_from(self.start, recipe_content(self.recipe) if self.recipe else None, revision=self.revision)
        return parse_recipe(overridden(content, self.overrides))

    def run(self) -> Path | None:
        """Trains. Returns and raises as ``train``."""
        plan = self.plan()
        return train(plan, self.output or Path("runs") / plan.name, resume=self.resume)

    def arguments(self) -> list[str]:
        """The same for ``python -m zoo_core.training``."""
        named = {
            "--output": self.output, "--resume": self.resume, "--from": self.start, "--revision": self.revision
        }  # fmt: skip
        options = [f"{option}={value}" for option, value in named.items() if value is not None]
        recipe = [] if self.recipe is None else [self.recipe]
        return [*recipe, *(f"--set={override}" for override in self.overrides), *options]
