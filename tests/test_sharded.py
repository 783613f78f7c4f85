"""How much memory it takes to write and to load a large model, in files of a tenth of its size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo_core import build, from_pretrained, save_pretrained

PRELUDE = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from zoo_core import build, from_pretrained, save_pretrained
from zoo_core.training.processes.placement import wrapping


def model(width):
    nets = {"encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [width] * 6},
            "decoder": {"type": "nets/mlp_decoder", "hidden": [width] * 5}}
    return build({"type": "vae/vae", **nets, "prior": "nets/standard_normal"}, "model", data_shape=(1, 16, 16))


def memory(line):  # of this process alone: what getrusage tells begins with that of its parent
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[line].split()[0]) * 1024


def peak(act):  # what it takes at most, beyond what there was
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    kept = act()
    return memory("VmHWM") - before


rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
# Once with little, so that all modules are there.
save_pretrained(model(2), f"{folder}/little-{rank}")
from_pretrained(f"{folder}/little-{rank}")
"""
ALONE = """
large = model(2800)
size = sum(p.nbytes for p in large.parameters())
writing = peak(lambda: save_pretrained(large, f"{folder}/large", max_shard_size=size // 10)) / size
del large
size = sum(path.stat().st_size for path in Path(folder, "large").glob("*.safetensors"))
print(json.dumps([writing, peak(lambda: from_pretrained(f"{folder}/large")) / size]))
"""
SHARE = """
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
large = model(2000)
size = sum(p.nbytes for p in large.parameters())
shared = wrapping(SimpleNamespace(num_processes=world, device=torch.device("cpu")), "fsdp")
shared.wrap(large, unused=False)
own = sum(shared.share(p).nbytes for p in large.parameters())


def save():
    with shared.gathered(large):
        if rank == 0:
            save_pretrained(large, f"{folder}/shared", max_shard_size=size // 10)
        torch.distributed.barrier()


taken = peak(lambda: shared.state_dict(large)), peak(save)
print(json.dumps([own / size, *(bytes / size for bytes in taken)]), flush=True)
torch.distributed.barrier()
# gloo's threads may outlive the interpreter, which then aborts.
os._exit(0)
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure memory")


def measured(program: str, folder: Path, world: int = 1) -> list[str]:
    """What each of the processes prints last."""
    commands = [[sys.executable, "-c", PRELUDE + program, str(rank), str(world), str(folder)] for rank in range(world)]
    # Each tensor has pages of its own, which are gone when it is.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for command in commands]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in started]
        assert [process.returncode for process in started] == [0] * world
    finally:
        for process in started:
            process.kill()
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("large")


@pytest.fixture(scope="module")
def shares(folder: Path) -> list[float]:
    """What writing and what loading take, for each byte of the model."""
    (found,) = measured(ALONE, folder)
    return [float(share) for share in found]


def test_writing_copies_a_file_at_most(shares: list[float], folder: Path) -> None:
    assert len(list((folder / "large").glob("*.safetensors"))) >= 10
    assert shares[0] < 0.15


def test_loading_has_no_second_copy(shares: list[float]) -> None:
    assert 0.95 < shares[1] < 1.2


def test_what_processes_share_is_whole_once_to_be_saved(folder: Path) -> None:
    """And in the main process alone, where it is not to be used there."""
    first, second = measured(SHARE, folder, world=2)
    assert [own for own, *_ in (first, second)] == pytest.approx([0.5, 0.5], abs=0.01)
    (_, state, saved), (_, others, _) = first, second
    assert 0.8 < float(state) < 1.2
    assert float(others) < 0.4
    assert 0.8 < float(saved) < 1.2


@pytest.mark.parametrize("shard", ["10GB", 2000])
@pytest.mark.parametrize("storage", [None, "bfloat16"])
def test_what_is_written_without_a_copy_is_what_there_is(tmp_path: Path, shard: int | str, storage: str | None) -> None:
    """Also where tensors are views, are not contiguous, or share memory."""
    nets = {
        "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [5, 5]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [5]},
    }
    model = build({"type": "vae/vae", **nets, "prior": "nets/standard_normal"}, "model", data_shape=(1, 4, 4))
    square, *others = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)][1:]
    memory = torch.randn(400)
    square.data = memory[:25].view(5, 5).t()
    for i, weight in enumerate(others):  # they overlap
        weight.data = memory[i : i + weight.numel()].view(weight.shape)
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    save_pretrained(model, tmp_path / "model", max_shard_size=shard, storage=storage)
    found = from_pretrained(tmp_path / "model").state_dict()
    dtype = torch.bfloat16 if storage else torch.float32
    assert list(found) == list(wanted)
    assert [n for n in wanted if not torch.equal(found[n], wanted[n].to(dtype).to(wanted[n].dtype))] == []
