"""One training step of a codebook of running means, in the zoo and in vector-quantize-pytorch: CPU time and memory.

Both quantize the same 32 x 1024 vectors of 256 numbers, go back through the result and the commitment loss, and move
the codebook; both start from the same codes, and neither looks for dead ones. Each has a process of its own with one
thread; the first step is not measured. That both find the same codes and end at the same codebook is measured too.
Without vector-quantize-pytorch (``pip install vector-quantize-pytorch``) the zoo is measured alone.

    python benchmarks/quantizer.py [CODES ...]
"""

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rounds import conditions, in_turns
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo_core import build

B, SIDE, D = 32, 32, 256
STEPS, ROUNDS, DECAY = 3, 3, 0.99
GRADIENTS = ("straight_through", "rotation")
OTHER = "vector_quantize_pytorch"
Step = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # z (B, D, h, w) → z_q, codes, a loss
Codes = Callable[[], Tensor]  # the codebook as it is, (K, D)


def by_zoo(e: Tensor, gradient: str) -> tuple[Step, Codes]:
    config = {"type": "vqvae/ema", "codes": len(e), "decay": DECAY, "start": "normal", "restart_below": 0.0}
    quantizer = build({**config, "gradient": gradient}, latent_shape=(D, SIDE, SIDE))
    quantizer.e.copy_(e)
    quantizer.m.copy_(e)

    def step(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_q, codes, loss, _ = quantizer(z)
        quantizer.after_step()
        return z_q, codes, loss.sum()

    return step, lambda: quantizer.e


def by_other(e: Tensor, gradient: str) -> tuple[Step, Codes]:
    from vector_quantize_pytorch import VectorQuantize

    options = {"rotation_trick": gradient == "rotation", "accept_image_fmap": True, "commitment_weight": 0.25}
    quantizer = VectorQuantize(dim=D, codebook_size=len(e), decay=DECAY, **options)
    own = quantizer._codebook
    for kept, value in ((own.embed, e), (own.embed_avg, e), (own.cluster_size, torch.ones(len(e)))):
        kept.copy_(value.reshape(kept.shape))

    def step(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_q, codes, loss = quantizer(z)
        return z_q, codes, loss.sum()

    return step, lambda: own.embed[0]


CONTESTANTS = {"zoo": by_zoo, OTHER: by_other}


def compete(name: str, gradient: str, size: int, out: str) -> dict[str, float]:
    """CPU seconds of the fastest step, and the largest memory of this process in GiB."""
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step, codebook = CONTESTANTS[name](torch.randn(size, D), gradient)
    z = torch.randn(B, D, SIDE, SIDE, requires_grad=True)
    w, seconds, first = torch.randn(B, D, SIDE, SIDE), [], torch.empty(0)
    for number in range(STEPS + 1):
        start = time.process_time()
        z_q, codes, loss = step(z)
        torch.autograd.grad((w * z_q).sum() + loss, z)
        seconds.append(time.process_time() - start)
        first = first if number else codes.clone()
    save_file({"codes": first.flatten(), "e": codebook().contiguous()}, out)
    gib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"seconds": min(seconds[1:]), "gib": gib}


def result(name: str, number: int, *, gradient: str, size: int, folder: str) -> dict[str, float]:
    out = str(Path(folder) / f"{name}.safetensors")
    command = [sys.executable, __file__, "--as", name, gradient, str(size), out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def tell(gradient: str, size: int) -> None:
    names = [name for name in CONTESTANTS if name == "zoo" or importlib.util.find_spec(OTHER)]
    with TemporaryDirectory() as folder:
        results = in_turns(names, partial(result, gradient=gradient, size=size, folder=folder), ROUNDS)
        learned = [load_file(Path(folder) / f"{name}.safetensors") for name in names]
    print(f"\n{size} codes, {gradient}   ({conditions(ROUNDS)})")
    for name, own in results.items():
        seconds = [r["seconds"] for r in own]
        ratio = statistics.median(r["seconds"] / z["seconds"] for r, z in zip(own, results["zoo"], strict=True))
        memory = max(r["gib"] for r in own)
        print(f"  {name:26}{min(seconds):8.2f} s of CPU{memory:8.2f} GiB{ratio:8.2f} times the zoo's time")
    if len(learned) == 2:
        same = (learned[0]["codes"] == learned[1]["codes"]).float().mean()
        apart = (learned[0]["e"] - learned[1]["e"]).abs().max()
        print(
            f"  of the first codes {float(same):.3%} are the same; the codebooks end {float(apart):.1e} apart at most"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--as"]:
        name, gradient, size, out = sys.argv[2:]
        print(json.dumps(compete(name, gradient, int(size), out)))
    else:
        for number in map(int, sys.argv[1:] or ["1024", "8192"]):
            for kind in GRADIENTS:
                tell(kind, number)
