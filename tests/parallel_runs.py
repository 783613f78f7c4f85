"""Short trainings under each wrapping, in as many processes as it takes: what tests/test_wrapping.py compares."""

import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from zoo_core import GenerativeModel, Loss, LossOutput, build
from zoo_core.training.processes.placement import wrapping
from zoo_core.training.processes.wrapping import recompute

STEPS, HALF, BATCH, PARTS, CLIP = 8, 4, 18, 4, 20.0
VAE = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 3, "hidden": [9]},
    # It has a parameter without dimensions.
    "decoder": {"type": "nets/mlp_decoder", "hidden": [9], "likelihood": "nets/gaussian_learned_sigma"},
    "prior": "nets/standard_normal",
}
RESNET = {
    **VAE,
    "encoder": {"type": "nets/resnet_encoder", "latents": 3, "channels": [5], "blocks": 2},
    "decoder": {"type": "nets/resnet_decoder", "channels": [5], "blocks": 2},
}
FIRST_STAGE = {
    "type": "vqvae/vqvae",
    "encoder": {"type": "nets/conv_encoder", "latents": 4, "channels": [8, 8], "layout": "grid"},
    "quantizer": {"type": "vqvae/nearest", "codes": 7},
    "decoder": {"type": "nets/conv_decoder", "channels": [8, 8]},
}
DALLE = {
    "type": "dalle/dalle", "first_stage": FIRST_STAGE,
    "vocabulary": 256, "text_length": 6, "dim": 24, "depth": 3, "heads": 3,
}  # fmt: skip
FACTOR = {"type": "vae/factor", "hidden": [7], "adversary_lr": 1e-2}
CAPTIONS = ["red", "a dog", "two", "", "sky", "a"] * (BATCH // 6)


class Scenario(NamedTuple):
    """A model, a loss, an optimiser; and whether blocks are recomputed."""

    model: dict[str, Any] = VAE
    loss: Any = "vae/elbo"
    optimizer: str = "fused"
    recompute: bool = False


SCENARIOS = {
    "sgd": Scenario(optimizer="sgd"),
    "adam": Scenario(optimizer="adam"),
    "fused": Scenario(),
    "resnet": Scenario(model=RESNET),
    "adversary": Scenario(loss=FACTOR, optimizer="adam"),
    "dalle": Scenario(model=DALLE, loss="dalle/text_image"),
    "recomputed": Scenario(model=DALLE, loss="dalle/text_image", recompute=True),
}


class Objective(nn.Module):
    """A loss of a model, in the shape that training calls it."""

    def __init__(self, model: GenerativeModel, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: dict[str, Any], step: int, player: str) -> LossOutput:
        self.loss.step = step
        play: Any = self.loss if player == "model" else self.loss.oppose
        output: LossOutput = play(self.model.given(batch), batch)
        return output

    def players(self) -> dict[str, list[nn.Parameter]]:
        adversary = getattr(self.loss, "adversary", None)
        opponent = list(adversary.parameters()) if adversary else []
        own = [p for p in self.parameters() if p.requires_grad and not any(p is o for o in opponent)]
        return {"model": own, **({"adversary": opponent} if opponent else {})}


def objective_of(scenario: Scenario, seed: int = 0) -> Objective:
    torch.manual_seed(seed)
    model: Any = build(scenario.model, "model", data_shape=shape_of(scenario))
    shapes = {"latent_shape": model.latent_shape} if hasattr(model, "latent_shape") else {}
    objective = Objective(model, build(scenario.loss, "loss", **shapes))
    if scenario.recompute:
        recompute(objective)
    # The order of a sum then shows in the last digits alone.
    return objective.double().train()


def shape_of(scenario: Scenario) -> tuple[int, ...]:
    return (3, 16, 16) if scenario.model is DALLE else (1, 8, 8)


def batch_of(scenario: Scenario, step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    x = torch.rand(BATCH, *shape_of(scenario), generator=generator, dtype=torch.float64)
    return {"image": x, "caption": CAPTIONS}


def parts_of(batch: dict[str, Any], rank: int, world: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """This process's micro-batches, of 5, 5, 4 and 4 examples."""
    for k in range(rank, PARTS, world):
        yield k, {name: value[k::PARTS] for name, value in batch.items()}


class Training:
    """A training that goes on from what ``state`` returned."""

    def __init__(self, scenario: Scenario, way: Any, rank: int, world: int) -> None:
        self.scenario, self.rank, self.world = scenario, rank, world
        accelerator: Any = SimpleNamespace(num_processes=world, device=torch.device("cpu"))
        self.wrapping = wrapping(accelerator, way)
        self.objective = objective_of(scenario)
        self.losses: list[float] = []
        self.norms: list[float] = []

    def begin(self, state: dict[str, Any] | None = None) -> "Training":
        if state:
            self.objective.load_state_dict(state["objective"])
        self.wrapped = self.wrapping.wrap(self.objective, unused=len(self.objective.players()) > 1)
        self.players = self.objective.players()
        self.optimizers = {name: self.optimizer(moved) for name, moved in self.players.items()}
        for name in self.optimizers if state else ():
            self.take(name, copy.deepcopy(state["optimizers"][name]))
        return self

    def take(self, name: str, saved: dict[str, Any]) -> None:
        for i, entry in saved["state"].items():
            moved = self.players[name][i]
            for key, value in entry.items():
                entry[key] = self.wrapping.like(value, moved) if value.shape == moved.shape else value
        self.optimizers[name].load_state_dict(saved)

    def optimizer(self, moved: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.scenario.optimizer == "sgd":
            return torch.optim.SGD(moved, lr=1e-3, momentum=0.9)
        return torch.optim.Adam(moved, lr=3e-3, fused=self.scenario.optimizer == "fused")

    def train(self, steps: range) -> "Training":
        for step in steps:
            for player in self.players:
                self.move(player, step)
        return self

    def move(self, player: str, step: int) -> None:
        moved, loss = self.players[player], torch.zeros((), dtype=torch.float64)
        for parameter in moved:
            parameter.grad = None
        parts = list(parts_of(batch_of(self.scenario, step), self.rank, self.world))
        for i, (k, part) in enumerate(parts):
            torch.manual_seed(100 * step + k)
            with self.wrapping.sync(self.wrapped, i == len(parts) - 1):
                total = self.wrapped(part, step, player).total * len(part["image"]) / BATCH
                (total * self.world).backward()
            loss += total.detach()
        if self.world > 1:
            distributed.all_reduce(loss)
        norm = self.wrapping.norm(moved)
        self.wrapping.clip(moved, norm, CLIP)
        self.optimizers[player].step()
        self.losses.append(float(loss))
        self.norms += [float(norm), float(self.wrapping.norm(moved))]

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        optimizers = {}
        for name, optimizer in self.optimizers.items():
            saved = optimizer.state_dict()
            entries = saved["state"].items()
            whole = {i: {key: self.wrapping.whole(value) for key, value in entry.items()} for i, entry in entries}
            optimizers[name] = {**saved, "state": whole}
        state = {"objective": self.wrapping.state_dict(self.objective), "optimizers": optimizers}
        return copy.deepcopy(state) if self.rank == 0 else {}

    def look(self) -> dict[str, Any]:
        """What there is of the model when it is gathered; the first process alone computes with it."""
        with self.wrapping.gathered(self.objective):
            seen: dict[str, Any] = {"weights": copy.deepcopy(self.objective.state_dict())}
            seen["kinds"] = sorted({type(module).__name__ for module in self.objective.modules()})
            if self.rank == 0:
                torch.manual_seed(0)
                with torch.no_grad():
                    seen["samples"] = copy.deepcopy(self.objective.model).eval().sample(2)
                total = self.objective(batch_of(self.scenario, 0), 0, "model").total
                # In training this would wait for the others.
                total.backward()
                seen["loss"] = total.detach()
        return seen

    def shares(self) -> dict[str, int]:
        """How many numbers the parameters are, and how many of these, and of an optimiser's, lie here."""
        kept = [v for o in self.optimizers.values() for entry in o.state.values() for v in entry.values() if v.dim()]
        return {
            "all": sum(p.numel() for p in self.objective.parameters()),
            "own": sum(self.wrapping.share(p).numel() for p in self.objective.parameters()),
            "kept": sum(self.wrapping.share(value).numel() for value in kept),
        }

    def report(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "norms": list(self.norms), "state": self.state()}


def whole_run(name: str, way: str, rank: int, world: int) -> dict[str, Any]:
    """Half of the training, what there is then, and the other half."""
    training = Training(SCENARIOS[name], way, rank, world).begin()
    half = training.train(range(HALF)).report()
    found = {"half": half, "look": training.look(), "shares": training.shares()}
    return {**found, **training.train(range(HALF, STEPS)).report()}


def second_half(name: str, way: str, rank: int, world: int, state: dict[str, Any]) -> dict[str, Any]:
    """The other half alone, from the state of the first."""
    return Training(SCENARIOS[name], way, rank, world).begin(state).train(range(HALF, STEPS)).report()


def beginning(way: str, rank: int, world: int) -> dict[str, Tensor]:
    """What a process begins with if it has drawn other weights than the first."""
    training = Training(SCENARIOS["sgd"], way, rank, world)
    training.objective = objective_of(SCENARIOS["sgd"], seed=rank)
    training.objective.register_buffer("seen", torch.tensor([float(rank)]))
    training.begin()
    with training.wrapping.gathered(training.objective):
        return copy.deepcopy(training.objective.state_dict())


def main() -> None:
    run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))


def run(rank: int, world: int, folder: Path) -> None:
    """Two processes train all there is, more go on from where two had come; each leaves a file."""
    store = f"file://{folder}/store-{world}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    reports: dict[str, Any] = {}
    for way in ("ddp", "fsdp"):
        if world == 2:
            reports[f"beginning {way}"] = beginning(way, rank, world)
            names = [name for name in SCENARIOS if name != {"ddp": "recomputed", "fsdp": "dalle"}[way]]
            reports.update({f"{name} {way}": whole_run(name, way, rank, world) for name in names})
        else:
            state = torch.load(folder / "2-0.pt", weights_only=True)["fused fsdp"]["half"]["state"]
            reports[f"fused {way}"] = second_half("fused", way, rank, world, state)
    torch.save(reports, folder / f"{world}-{rank}.pt")
    distributed.barrier()
    # gloo's threads may outlive the interpreter, which then aborts.
    os._exit(0)
