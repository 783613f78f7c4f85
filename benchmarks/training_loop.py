"""What the training loop costs: a run of the zoo against a bare loop over the same model, loss, data and optimiser.

Both take turns in one process, some steps at a time; the bare loop does nothing but take the next examples of a
shuffled set out of memory, preprocess them, and forward, backward and the optimiser's step. An MLP VAE
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
from zoo_core.training.interruption import Interruption
from zoo_core.training.processes import Processes
from zoo_core.training.reading import parse_recipe
from zoo_core.training.recipe import Recipe

ROUNDS = 15
DALLE = {
    "type": "dalle/dalle",
    "first_stage": {"pretrained": "dvae-shapes"},
    "text_length": 32,
    "dim": 256,
    "depth": 6,
}
CASES = {
    "MLP VAE, batch 64": (VAE, "vae/elbo", {"name": data_name(), "preprocessing": PREPROCESSING}, BATCH, 100),
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
    optimizer = torch.optim.Adam(run.objective.parameters(), lr=1e-3, fused=True)
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


def seconds(steps: Iterator[None], count: int) -> float:
    """CPU time of one step."""
    start = time.process_time()
    for _ in range(count):
        next(steps)
    return (time.process_time() - start) / count


def main() -> None:
    torch.set_num_threads(1)
    for name, (model, loss, data, batch, count) in CASES.items():
        for precision in ("no", "bf16"):
            with tempfile.TemporaryDirectory() as folder, Interruption() as interruption:
                plan = recipe(model, loss, data, batch, precision)
                run = GradientRun(plan, Path(folder), Processes(), interruption)
                loops = {"zoo": of_the_zoo(run), "bare": bare(run)}
                for steps in loops.values():
                    seconds(steps, count)
                rounds = [{key: seconds(steps, count) for key, steps in loops.items()} for _ in range(ROUNDS)]
            ratios = sorted(each["zoo"] / each["bare"] for each in rounds)
            own, other = (statistics.median(each[key] for each in rounds) * 1e3 for key in ("zoo", "bare"))
            print(
                f"{name}, precision {precision}: {own:.2f} ms a step, bare {other:.2f} ms, ratio"
                f" {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})   ({conditions(ROUNDS)})"
            )


if __name__ == "__main__":
    main()
