"""Two processes with two parts of each batch learn the codebook that one process learns from all four."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

PROCESS = """
import sys
import torch
from safetensors.torch import save_file
from zoo_core import Component, build

PARTS = 4
rank, world, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
ema = {"type": "vqvae/ema", "codes": 16}
configs = {
    "plain": {**ema, "start": "normal", "restart_below": 0.0, "decay": 0.8},
    "started": {**ema, "restart_below": 0.0},
    "revived": {**ema, "codes": 64, "restart_below": 0.5, "decay": 0.5},
    "stack": {"type": "vqvae/residual", "quantizer": {**ema, "restart_below": 0.3}, "depth": 2},
}
learned, noise = {}, torch.zeros(7)
for name, config in configs.items():
    torch.manual_seed(0)
    quantizer = build(config, latent_shape=(3, 2))
    batches = list(torch.randn(6, 43, 3, 2, generator=torch.Generator().manual_seed(1)))
    batches.append(batches[0][:1])  # all of it is with the first process
    for step, z in enumerate(batches):
        for part in range(rank, min(PARTS, len(z)), world):
            torch.manual_seed(10 * step + part)
            quantizer(z[part::PARTS])
            noise[step] += torch.rand(())
        torch.manual_seed(10 * step + PARTS)
        for module in quantizer.modules():
            if isinstance(module, Component):
                module.after_step()
    learned.update({f"{name}.{key}": value for key, value in quantizer.state_dict().items()})
torch.distributed.all_reduce(noise)
save_file({**learned, "noise": noise}, f"{out}/{world}-{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: Any) -> list[dict[str, torch.Tensor]]:
    """By one process, then by each of two."""
    folder: Path = tmp_path_factory.mktemp("processes")
    arguments = [(rank, world) for world in (1, 2) for rank in range(world)]
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(world), str(folder / str(world)), str(folder)])
        for rank, world in arguments
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    return [load_file(folder / f"{world}-{rank}.safetensors") for rank, world in arguments]


def test_all_processes_have_one_codebook(learned: list[dict[str, torch.Tensor]]) -> None:
    """To the bit, also where k-means and revived codes take vectors at random."""
    _, first, second = learned
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("name", ["plain", "started", "revived", "stack"])
def test_two_processes_learn_what_one_does(learned: list[dict[str, torch.Tensor]], name: str) -> None:
    one, two, _ = learned
    for key in (key for key in one if key.startswith(name)):
        torch.testing.assert_close(two[key], one[key], rtol=1e-5, atol=1e-6)
    N = torch.cat([value for key, value in one.items() if key.startswith(name) and key.endswith("N")])
    assert (N % 1 != 0).any()  # it has learned


def test_what_is_drawn_after_it_does_not_depend_on_the_processes(learned: list[dict[str, torch.Tensor]]) -> None:
    one, two, _ = learned
    assert one["noise"].tolist() == pytest.approx(two["noise"].tolist())
