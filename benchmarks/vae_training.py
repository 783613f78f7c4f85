"""Training one MLP VAE (784-512-16-512-784) in the zoo, in pythae and in a bare loop: images per second of one core.

All see the same images in batches of 64, with Adam at the same rate, each in a process of its own with one thread and
the same settings of the allocator. Only what grows with the steps is counted: no imports, no data, no saving. The test
ELBO of each result is measured by one metric, on weights moved into the same model. MNIST if it is within reach, else
enlarged digits.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rounds import Cost, conditions, in_turns
from torch import Tensor, nn
from torch.nn import functional as F

from zoo_core import GenerativeModel, ZooError, build, evaluate, from_pretrained, read_recipe, train
from zoo_core.data import Preprocessing, load

SIDE, HIDDEN, LATENTS, BATCH, RATE = 28, 512, 16, 64, 1e-3
EPOCH, SHORT = 60_000 // BATCH, 10  # in steps
EPOCHS, ROUNDS = 2, 5
REFERENCE = "pythae 0.1.2"
# Keeps what was freed, in huge pages: else each step may pay for having its memory mapped and zeroed again.
ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
SAME = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "GLIBC_TUNABLES": ALLOCATOR}
PREPROCESSING = {"image_size": SIDE, "channels": 1, "binarize": "threshold"}
VAE = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": LATENTS, "hidden": [HIDDEN]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [HIDDEN]},
    "prior": "nets/standard_normal",
}
Layers = Sequence[nn.Linear]  # two of the encoder, then two of the decoder
Training = Callable[[], Layers]


def data_name() -> str:
    try:
        load("ylecun/mnist", "test")
    except ZooError:
        return "core/digits"
    return "ylecun/mnist"


def images(steps: int) -> Tensor:
    """An epoch's worth of x (N, 1, 28, 28), or what the steps need if that is less."""
    data = load(data_name(), "train")
    indices = torch.arange(min(steps, EPOCH) * BATCH) % len(data)
    x: Tensor = Preprocessing.from_dict(PREPROCESSING)(data.batch(indices))["image"]
    return x


def by_zoo(steps: int, seed: int, folder: Path, precision: str = "no") -> Training:
    content = {
        "model": VAE,
        "loss": "vae/elbo",
        "data": {"name": data_name(), "preprocessing": PREPROCESSING},
        "training": {
            "steps": steps, "batch": BATCH, "lr": RATE, "seed": seed, "precision": precision, "save_every": 0
        },
        "evaluation": {"examples": 1},  # the others measure nothing
    }  # fmt: skip
    file = folder.with_suffix(".yaml")
    file.write_text(json.dumps(content))
    recipe = read_recipe(file)

    def training() -> Layers:
        finished = train(recipe, folder)
        return linear_layers(from_pretrained(str(finished)))

    return training


def by_zoo_in_bf16(steps: int, seed: int, folder: Path) -> Training:
    return by_zoo(steps, seed, folder, precision="bf16")


def by_pythae(steps: int, seed: int, folder: Path) -> Training:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    torch.manual_seed(seed)
    x = images(steps)
    model = VAE(VAEConfig(input_dim=(1, SIDE, SIDE), latent_dim=LATENTS, reconstruction_loss="bce"))
    config = BaseTrainerConfig(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        num_epochs=max(1, steps // EPOCH),
        learning_rate=RATE,
        seed=seed,
        no_cuda=True,
    )
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=config)

    def training() -> Layers:
        trainer.train()
        first, mu, log_variance, *decoder = linear_layers(model.encoder) + linear_layers(model.decoder)
        return [first, side_by_side(mu, log_variance), *decoder]

    return training


def by_bare_loop(steps: int, seed: int, folder: Path) -> Training:
    torch.manual_seed(seed)
    x = images(steps).flatten(1)
    encoder = nn.Sequential(nn.Linear(SIDE**2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, SIDE**2))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)

    def training() -> Layers:
        for _ in range(max(1, steps // EPOCH)):
            for indices in torch.randperm(len(x)).split(BATCH):
                x_b = x[indices]
                mu, log_sigma = encoder(x_b).chunk(2, 1)
                z = mu + log_sigma.exp() * torch.randn_like(mu)
                distortion = F.binary_cross_entropy_with_logits(decoder(z), x_b, reduction="sum")
                rate = ((mu**2 + (2 * log_sigma).exp() - 1) / 2 - log_sigma).sum()
                optimizer.zero_grad()
                ((distortion + rate) / len(x_b)).backward()
                optimizer.step()
        return [*linear_layers(encoder), *linear_layers(decoder)]

    return training


CONTESTANTS = {
    REFERENCE: by_pythae,
    "bare loop": by_bare_loop,
    "zoo": by_zoo,
    "zoo, precision: bf16": by_zoo_in_bf16,
}


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@torch.no_grad()
def side_by_side(mu: nn.Linear, log_variance: nn.Linear) -> nn.Linear:
    """h → (mu, log sigma), from two layers: log sigma is half the log of the variance."""
    both = nn.Linear(mu.in_features, 2 * mu.out_features)
    both.weight.copy_(torch.cat([mu.weight, log_variance.weight / 2]))
    both.bias.copy_(torch.cat([mu.bias, log_variance.bias / 2]))
    return both


def test_elbo(layers: Layers) -> float:
    """In nats per image, of these weights in the zoo's model: one estimator, one test set and one noise for all."""
    model: GenerativeModel = build(VAE, data_shape=(1, SIDE, SIDE))
    for own, trained in zip(linear_layers(model), layers, strict=True):
        own.load_state_dict(trained.state_dict())
    model.preprocessing = Preprocessing.from_dict(PREPROCESSING)
    return evaluate(model, [build("metrics/elbo")], load(data_name(), "test"))["elbo"].value


def compete(name: str, seed: int) -> dict[str, float]:
    """One contestant's training in this process, less a short one: what it costs to begin and to save falls out."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        CONTESTANTS[name](SHORT, seed, folder / "first")()
        _, short = timed(CONTESTANTS[name](SHORT, seed, folder / "short"))
        layers, long = timed(CONTESTANTS[name](EPOCHS * EPOCH, seed, folder / "long"))
    return {"wall": long.wall - short.wall, "cpu": long.cpu - short.cpu, "elbo": test_elbo(layers)}


def timed(training: Training) -> tuple[Layers, Cost]:
    wall, cpu = time.perf_counter(), time.process_time()
    layers = training()
    return layers, Cost(time.perf_counter() - wall, time.process_time() - cpu)


def result(name: str, seed: int) -> dict[str, float]:
    """What a process of its own tells."""
    command = [sys.executable, __file__, name, str(seed)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | SAME)
    told: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return told


def product_seconds(dtype: torch.dtype) -> float:
    """The least CPU time of the first layer's matrix product."""
    x, w = torch.randn(BATCH, SIDE**2, dtype=dtype), torch.randn(HIDDEN, SIDE**2, dtype=dtype)
    return min(timeit.repeat(lambda: F.linear(x, w), timer=time.process_time, number=20, repeat=20)) / 20


def tell(results: dict[str, list[dict[str, float]]]) -> None:
    count = (EPOCHS * EPOCH - SHORT) * BATCH
    gain = product_seconds(torch.float32) / product_seconds(torch.bfloat16)
    print(f"\ntraining an MLP VAE on {data_name()}, {EPOCHS} epochs in batches of {BATCH}   ({conditions(ROUNDS)})")
    print(f"matrix products in bf16 are {gain:.2f} times as fast as in fp32 on this core")
    print(
        f"  {'':24}{'images/cpu s':>14}{'min-max':>16}{'images/s':>10}{'cpu ratio':>11}{'min-max':>12}{'test ELBO':>18}"
    )
    for name, own in results.items():
        speed = [count / r["cpu"] for r in own]
        ratios = [b["cpu"] / a["cpu"] for a, b in zip(own, results[REFERENCE], strict=True)]
        elbo = [r["elbo"] for r in own]
        print(
            f"  {name:24}{statistics.median(speed):14,.0f}{f'{min(speed):,.0f}-{max(speed):,.0f}':>16}"
            f"{statistics.median(count / r['wall'] for r in own):10,.0f}{statistics.median(ratios):11.2f}"
            f"{f'{min(ratios):.2f}-{max(ratios):.2f}':>12}"
            f"{f'{statistics.mean(elbo):.2f} ± {statistics.stdev(elbo):.2f}':>18}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:]:
        print(json.dumps(compete(sys.argv[1], int(sys.argv[2]))))
    else:
        tell(in_turns(CONTESTANTS, result, ROUNDS))
