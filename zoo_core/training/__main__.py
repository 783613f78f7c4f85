"""``accelerate launch -m zoo_core.training RECIPE``: what ``zoo train`` does, in each process."""

from argparse import ArgumentParser
from pathlib import Path

from zoo_core.errors import exit_with_sentence
from zoo_core.training.command import Command
from zoo_core.training.processes.group import leave


def main() -> None:
    parser = ArgumentParser(prog="python -m zoo_core.training", description=__doc__)
    parser.add_argument("recipe", nargs="?", help="a YAML file, or the name of an installed recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", "-o", type=Path, help="the run's folder; default runs/NAME")
    parser.add_argument("--resume", default="auto", help="auto, or the run or checkpoint to begin from")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="train this model further")
    parser.add_argument("--revision", help="its branch, tag or commit on the Hub")
    command = Command(**vars(parser.parse_args()))
    try:
        with exit_with_sentence():
            finished = command.run()
            if finished is not None:
                print(finished)
    except SystemExit as end:
        leave(int(end.code or 0))
    leave(0)


if __name__ == "__main__":
    main()
