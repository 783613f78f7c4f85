"""One training, whether in one process, in two or in four, and however these share what is trained."""

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.parallel_runs import CLIP, HALF, SCENARIOS, STEPS, batch_of, objective_of, second_half, whole_run
from tests.zygote import Zygote, ends, zygote
from zoo_core import Component
from zoo_core.training.processes.wrapping import blocks, recompute

__all__ = ["zygote"]

DDP = [f"{name} ddp" for name in SCENARIOS if name != "recomputed"]
FSDP = [f"{name} fsdp" for name in SCENARIOS if name != "dalle"]
# Not in classes, which workers would share out: each has processes of its own.
every_run = pytest.mark.parametrize("run", DDP + FSDP)


@functools.cache
def alone(name: str) -> dict[str, Any]:
    """The same training in one process, which takes all parts of each batch."""
    return whole_run(name, "fsdp", 0, 1)


def processes(zygote: Zygote, world: int, folder: Path) -> list[dict[str, Any]]:
    """What each of so many processes reports."""
    program = "tests.parallel_runs:main"
    started = [zygote.start(rank, world, folder, folder=folder, program=program) for rank in range(world)]
    assert ends(started) == [0] * world, started[0].stderr
    return [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(zygote: Zygote, folder: Path) -> list[dict[str, Any]]:
    return processes(zygote, 2, folder)


@pytest.fixture(scope="module")
def four(zygote: Zygote, folder: Path, two: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """They go on where two sharded processes had come to half-way."""
    return processes(zygote, 4, folder)


def close(a: Any, b: Any) -> None:
    """Equal but for the order in which float64 numbers are added."""
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            close(a[key], b[key])
    elif isinstance(a, Tensor) or (isinstance(a, list) and a and isinstance(a[0], float)):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-7, atol=1e-9)
    else:
        assert a == b


@every_run
def test_they_follow_one(two: list[dict[str, Any]], run: str) -> None:
    one, first = alone(run.split()[0]), two[0][run]
    close(one["losses"], first["losses"])
    assert len(set(first["losses"])) == len(first["losses"]) >= STEPS


@every_run
def test_they_report_the_same(two: list[dict[str, Any]], run: str) -> None:
    first, second = (report[run] for report in two)
    assert first["losses"] == second["losses"]
    assert first["norms"] == second["norms"]


@every_run
def test_gradients_are_as_long_before_and_after_clipping(two: list[dict[str, Any]], run: str) -> None:
    norms = two[0][run]["norms"]
    close(alone(run.split()[0])["norms"], norms)
    for before, after in zip(norms[::2], norms[1::2], strict=True):
        assert after == pytest.approx(min(before, CLIP), rel=1e-6)


@every_run
def test_they_come_to_the_same_checkpoint(two: list[dict[str, Any]], run: str) -> None:
    close(alone(run.split()[0])["state"], two[0][run]["state"])


@every_run
def test_gathered_is_what_one_process_has(two: list[dict[str, Any]], run: str) -> None:
    one, looks = alone(run.split()[0])["look"], [report[run]["look"] for report in two]
    close(one, looks[0])
    close(one["weights"], looks[1]["weights"])
    assert one["kinds"] == looks[1]["kinds"]


def test_clipping_was_put_to_work() -> None:
    before = alone("sgd")["norms"][::2]
    assert min(before) < CLIP < max(before)


def test_a_parameter_without_dimensions_is_trained(two: list[dict[str, Any]]) -> None:
    name = "model.decoder.likelihood.log_sigma"
    assert two[0]["fused fsdp"]["state"]["objective"][name].item() != 0


@pytest.mark.parametrize("run", FSDP)
def test_each_of_two_has_half(two: list[dict[str, Any]], run: str) -> None:
    """Of the parameters, and of the two moments, or the momentum, that the optimiser keeps of each."""
    for shares in (report[run]["shares"] for report in two):
        assert 0.4 < shares["own"] / shares["all"] < 0.6
    whole = alone(run.split()[0])["shares"]
    assert whole["own"] == whole["all"]
    for report in two:
        assert 0.4 < report[run]["shares"]["kept"] / whole["kept"] < 0.6
    assert sum(report[run]["shares"]["kept"] for report in two) == whole["kept"]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_all_begin_with_what_the_first_has(two: list[dict[str, Any]], way: str) -> None:
    first, second = (report[f"beginning {way}"] for report in two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = objective_of(SCENARIOS["sgd"], seed=0).state_dict()
    assert all(torch.equal(first[name], drawn[name]) for name in drawn)
    assert first["seen"] == 0


def test_one_process_goes_on_where_two_were(two: list[dict[str, Any]]) -> None:
    whole = two[0]["fused fsdp"]
    resumed = second_half("fused", "fsdp", 0, 1, whole["half"]["state"])
    close(whole["losses"][HALF:], resumed["losses"])
    close(whole["state"], resumed["state"])


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_four_processes_go_on_where_two_were(two: list[dict[str, Any]], four: list[dict[str, Any]], way: str) -> None:
    whole, resumed = two[0]["fused fsdp"], four[0][f"fused {way}"]
    close(whole["losses"][HALF:], resumed["losses"])
    close(whole["state"], resumed["state"])


def test_to_go_on_takes_the_moments(two: list[dict[str, Any]]) -> None:
    state = two[0]["fused fsdp"]["half"]["state"]
    fresh = {**state, "optimizers": {"model": {**state["optimizers"]["model"], "state": {}}}}
    resumed = second_half("fused", "fsdp", 0, 1, fresh)
    assert resumed["losses"][-1] != pytest.approx(two[0]["fused fsdp"]["losses"][-1], rel=1e-5)


class Noisy(Component):
    """Blocks of which each draws its own noise, some inside of others."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.4), nn.Tanh())
        self.layers = nn.ModuleList([nn.Sequential(inner, nn.Linear(6, 6)), nn.Sequential(nn.Dropout(0.5), nn.Tanh())])

    def blocks(self) -> Iterable[nn.Module]:
        first: Any = self.layers[0]
        return [*self.layers, first[0]]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x.square().mean()


def computed(module: nn.Module, *inputs: Any) -> tuple[Tensor, list[Tensor], int]:
    """A loss, its gradients, and how many bytes the backward pass was left."""
    kept: dict[tuple[int, int], int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr(), tensor._version] = tensor.untyped_storage().nbytes()
        return tensor

    module.zero_grad()
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(*inputs)
    loss = output if isinstance(output, Tensor) else output.total
    left = sum(kept.values())
    loss.backward()
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    return loss.detach(), gradients, left


class TestRecompute:
    @pytest.mark.parametrize("bf16", [False, True])
    @pytest.mark.parametrize("name", ["noisy", "dalle", "resnet"])
    def test_nothing_else_changes(self, name: str, bf16: bool) -> None:
        """To the bit; and less is kept."""
        torch.manual_seed(0)
        module: nn.Module = Noisy() if name == "noisy" else objective_of(SCENARIOS[name]).float()
        batch = batch_of(SCENARIOS[name if name in SCENARIOS else "sgd"], 0)
        batch["image"] = batch["image"].float()
        inputs = (torch.randn(50, 6),) if name == "noisy" else (batch, 0, "model")
        names = list(module.state_dict())
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, gradients, kept = computed(module, *inputs)
            recompute(module)
            again, gradients_again, left = computed(module, *inputs)
        assert torch.equal(loss, again)
        assert len(gradients) == len(gradients_again)
        assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))
        assert left < 0.8 * kept
        assert list(module.state_dict()) == names

    def test_a_copy_computes_with_its_own_weights(self) -> None:
        module, x = Noisy().eval(), torch.randn(3, 6)
        recompute(module)
        twin, wanted = copy.deepcopy(module), module(x)
        for parameter in module.parameters():
            parameter.data.zero_()
        assert torch.equal(twin(x), wanted)
        assert not torch.equal(module(x), wanted)


def test_inner_blocks_come_first() -> None:
    module = Noisy()
    found = blocks(nn.ModuleList([module, nn.Linear(2, 2)]))
    assert len(found) == 3
    assert found.index(module.layers[0][0]) < found.index(module.layers[0])  # type: ignore[index]
