"""``accelerate launch -m zoo_core.training RECIPE``: what ``zoo train`` does, in each process."""

from argparse import ArgumentParser
from pathlib import Path

from zoo_core.errors import exit_with_sentence
from zoo_core.training import read_recipe, train


def main() -> None:
    parser = ArgumentParser(prog="python -m zoo_core.training", description=__doc__)
    parser.add_argument("recipe", help="a YAML file, or the name of an installed recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", "-o", type=Path, help="the run's folder; default runs/NAME")
    given = parser.parse_args()
    with exit_with_sentence():
        recipe = read_recipe(given.recipe, given.overrides)
        finished = train(recipe, given.output or Path("runs") / recipe.name)
        if finished is not None:
            print(finished)


if __name__ == "__main__":
    main()
