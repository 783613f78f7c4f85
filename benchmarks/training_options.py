"""What precision, memory layout and compilation save in a step of training, by recipe.

All of a recipe's variants take turns in one process, on one thread; what it takes to compile is told apart. The data
must be within reach.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from rounds import conditions

from zoo_core import ZooError, read_recipe
from zoo_core.training.gradients import GradientRun
from zoo_core.training.processes.group import Processes
from zoo_core.training.processes.interruption import Interruption

ROUNDS = 7
SECONDS = 2.0  # of each variant in each round
RECIPES = ("vae-mnist", "vqvae-cifar10", "dalle-shapes")
PLAIN = "fp32"
VARIANTS = {
    PLAIN: {"precision": "no"},
    "channels_last": {"precision": "no", "channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "compile": {"precision": "no", "compile": True},
    "compile, bf16": {"precision": "bf16", "compile": True},
    "compile, bf16, channels_last": {"precision": "bf16", "compile": True, "channels_last": True},
}


class Contestant:
    """A run that makes some steps at a time."""

    def __init__(self, recipe: str, settings: dict[str, object], interruption: Interruption) -> None:
        overrides = [f"training.{name}={str(value).lower()}" for name, value in settings.items()]
        plan = read_recipe(recipe, [*overrides, "training.trackers=[]"])
        self.run = GradientRun(plan, Path(tempfile.mkdtemp()), Processes(), interruption)
        self.step = 0
        start = time.perf_counter()
        self.seconds(2)
        self.first, self.count = time.perf_counter() - start, max(2, round(SECONDS / self.seconds(2)))

    def seconds(self, count: int) -> float:
        """CPU time of a step."""
        start = time.process_time()
        for _ in range(count):
            self.run.step(self.step)
            self.step += 1
        return (time.process_time() - start) / count


def main(recipes: list[str]) -> None:
    torch.set_num_threads(1)
    with Interruption() as interruption:
        for recipe in recipes or RECIPES:
            try:
                runs = {name: Contestant(recipe, settings, interruption) for name, settings in VARIANTS.items()}
            except ZooError as error:
                print(f"{recipe}: {error}")
                continue
            rounds = [{name: run.seconds(run.count) for name, run in runs.items()} for _ in range(ROUNDS)]
            print(f"\n{recipe}   ({conditions(ROUNDS)})")
            for name, run in runs.items():
                own = statistics.median(each[name] for each in rounds)
                gains = sorted(each[PLAIN] / each[name] for each in rounds)
                print(
                    f"  {name:30}{own * 1e3:8.1f} ms  {statistics.median(gains):.2f} times as fast"
                    f" ({gains[0]:.2f} to {gains[-1]:.2f}); the first two steps {run.first:.1f} s"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
