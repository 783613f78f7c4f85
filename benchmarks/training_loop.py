"""What the training loop costs: a run of the zoo against a bare loop over the same model, loss, data and optimiser.

Both take turns in one process, a few steps at a time; the bare loop does nothing but take the next examples of a
shuffled set out of memory, preprocess them, and forward, backward and the same optimiser's step. An MLP VAE
(784-512-16-512-784, batch 64), and a transformer of captions and codes (6 layers of 256, batch 8).
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rounds import conditions
from vae_training import BATCH, PREPROCESSING, VAE, data_name

from zoo_core.training.gradients import GradientRun
from zoo_core.training.processes.group import Processes
from zoo_core.training.processes.interruption import Interruption
from zoo_core.training.reading import parse_recipe
from zoo_core.training.recipe import Recipe

STEPS = 5  # in turn
DALLE = {
    "type": "dalle/dalle",
    "first_stage": {"pretrained": "dvae-shapes"},
    "text_length": 32,
    "dim": 256,
    "depth": 6,
}
CASES = {
    "MLP VAE, batch 64": (VAE, "vae/elbo", {"name": data_name(), "preprocessing": PREPROCESSING}, BATCH, 200),
    "transformer, batch 8": (
        DALLE, "dalle/text_image", {"name": "core/shapes", "options": {"length": 2000}}, 8, 15
    ),
}  # fmt: skip


def recipe(model: Any, loss: str, data: Any, batch: int, precision: str) -> Recipe:
    training = {"steps": 1_000_000, "batch": batch, "precision": precision, "trackers": []}
    return parse_recipe({"name": "loop", "model": model, "loss": loss, "data": data, "training": training})


def bare(run: GradientRun) -> Iterator[None]:
    """Steps of the same objective, each when it is asked for."""
    shuffled = torch.randperm(len(run.data)).split(run.settings.batch)
    optimizer = run.optimizers["model"]
    for indices in itertools.cycle(shuffled):
        batch = run.model.preprocessing(run.data.batch(indices))
        optimizer.zero_grad(set_to_none=True)
        run.objective(batch, 0, "model").total.backward()
        optimizer.step()
        yield


def of_the_zoo(run: GradientRun) -> Iterator[None]:
    for step in itertools.count():
        run.step(step)
        yield


def seconds(steps: Iterator[None]) -> float:
    """CPU time of one step."""
    start = time.process_time()
    for _ in range(STEPS):
        next(steps)
    return (time.process_time() - start) / STEPS


def main() -> None:
    torch.set_num_threads(1)
    for name, (model, loss, data, batch, turns) in CASES.items():
        for precision in ("no", "bf16"):
            with tempfile.TemporaryDirectory() as folder, Interruption() as interruption:
                plan = recipe(model, loss, data, batch, precision)
                run = GradientRun(plan, Path(folder), Processes(), interruption)
                loops = {"zoo": of_the_zoo(run), "bare": bare(run)}
                rounds = [{key: seconds(steps) for key, steps in loops.items()} for _ in range(turns)][1:]
            ratios = [each["zoo"] / each["bare"] for each in rounds]
            low, middle, high = statistics.quantiles(ratios, n=4)
            own, other = (statistics.median(each[key] for each in rounds) * 1e3 for key in ("zoo", "bare"))
            print(
                f"{name}, precision {precision}: {own:.2f} ms a step, bare {other:.2f} ms, ratio {middle:.3f}"
                f" (quartiles {low:.3f} and {high:.3f}; {conditions(len(rounds))})"
            )


if __name__ == "__main__":
    main()
