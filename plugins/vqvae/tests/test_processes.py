"""Two processes with half a batch each learn the codebook that one process learns from the whole."""

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
from zoo_core import build
from zoo_vqvae.kmeans import kmeans

rank, world, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
configs = {
    "plain": {"type": "vqvae/ema", "codes": 8, "start": "normal", "restart_below": 0.0, "decay": 0.8},
    "revived": {"type": "vqvae/ema", "codes": 64, "restart_below": 0.5, "decay": 0.5},
    "stack": {"type": "vqvae/residual", "quantizer": {"type": "vqvae/ema", "codes": 16}, "depth": 2},
}
learned = {}
for name, config in configs.items():
    torch.manual_seed(0)
    quantizer = build(config, latent_shape=(3, 2))
    data = torch.randn(6, 40, 3, 2, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(rank)
    for z in data:
        quantizer(z[rank::world])
    learned.update({f"{name}.{key}": value for key, value in quantizer.state_dict().items()})
learned["drawn.e"] = kmeans(data[0, rank::world, :, 0], 8, iterations=0)[0]
save_file(learned, f"{out}/{world}-{rank}.safetensors")
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


def test_two_processes_learn_what_one_does(learned: list[dict[str, torch.Tensor]]) -> None:
    one, two, _ = learned
    for name in ("plain.N", "plain.m", "plain.e"):
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)
    assert float(one["plain.N"].sum()) > 2 * float(torch.ones(8).sum())  # it has learned
