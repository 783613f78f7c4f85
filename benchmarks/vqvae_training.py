"""Training one VQ-VAE in the zoo and in pythae: the cost of a step, and what equally many steps reach.

All train the same encoder and decoder (the zoo's residual ones, 8x8 codes, the same weights at the start) and 512 codes
of 64 numbers, which are running means of one decay; they see the same images in the same order, in batches of 64, with
Adam at the same rate, each in a process of its own with one thread and the same settings of the allocator. Only what
grows with the steps is counted: no imports, no data, no saving. All results are measured by the same metrics over the
whole test split, on weights moved into one model. CIFAR-10 if it is within reach, else drawn shapes.

pythae adds a squared error that is a sum over the image to a commitment that is a mean over its latents; the zoo's
``with pythae's loss`` minimises just that, so that only the codebook's start and its revived codes differ.

    python benchmarks/vqvae_training.py [STEPS [ROUNDS]]
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rounds import Cost, conditions, in_turns
from torch import Tensor, nn

from zoo_core import GenerativeModel, ZooError, build, evaluate, from_pretrained, read_recipe, train
from zoo_core.data import Preprocessing, load
from zoo_core.randomness import seed_everything
from zoo_core.training.order import step_indices

SHAPE, BATCH, RATE = (3, 32, 32), 64, 1e-3
CODES, WIDTH, GRID, BETA, DECAY = 512, 64, 8, 0.25, 0.99
STEPS, ROUNDS, SHORT = 2000, 1, 5
REFERENCE = "pythae 0.1.2"
# Keeps what was freed, in huge pages: else each step may pay for having its memory mapped and zeroed again.
ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
SAME = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "GLIBC_TUNABLES": ALLOCATOR}
BODY = {"blocks": 1, "activation": "silu"}
LEARNED: dict[str, Any] = {"likelihood": "nets/gaussian_learned_sigma", "beta": BETA}
# Σ (x - x̂)^2 is the -log p of a Gaussian whose 2 sigma^2 is 1, but for a constant.
OF_PYTHAE: dict[str, Any] = {
    "likelihood": {"type": "nets/gaussian", "sigma": math.sqrt(0.5)},
    "beta": BETA / (WIDTH * GRID**2),
}
METRICS = ("metrics/mse", "metrics/psnr", "vqvae/codebook")
Training = Callable[[], GenerativeModel]


def vqvae(likelihood: Any, beta: float) -> dict[str, Any]:
    encoder = {"latents": WIDTH, "channels": [32, 128], "layout": "grid", "posterior": "nets/dirac"}
    decoder = {"channels": [128, 32], "likelihood": likelihood}
    return {
        "type": "vqvae/vqvae",
        "encoder": {"type": "nets/resnet_encoder", **encoder, **BODY},
        "quantizer": {"type": "vqvae/ema", "codes": CODES, "beta": beta, "decay": DECAY},
        "decoder": {"type": "nets/resnet_decoder", **decoder, **BODY},
    }


def by_zoo(steps: int, seed: int, folder: Path, precision: str = "no", loss: dict[str, Any] = LEARNED) -> Training:
    content = {
        "model": vqvae(**loss),
        "loss": "vqvae/vq",
        "data": {"name": data_name()},
        "training": {
            "steps": steps, "batch": BATCH, "lr": RATE, "seed": seed, "precision": precision, "save_every": 0
        },
        "evaluation": {"examples": 1},  # the other measures nothing
    }  # fmt: skip
    file = folder.with_suffix(".yaml")
    file.write_text(json.dumps(content))
    recipe = read_recipe(file)
    return lambda: from_pretrained(str(train(recipe, folder)))


def by_zoo_in_bf16(steps: int, seed: int, folder: Path) -> Training:
    return by_zoo(steps, seed, folder, precision="bf16")


def by_zoo_with_loss_of_pythae(steps: int, seed: int, folder: Path) -> Training:
    return by_zoo(steps, seed, folder, loss=OF_PYTHAE)


def by_pythae(steps: int, seed: int, folder: Path) -> Training:
    from pythae.data.datasets import BaseDataset, collate_dataset_output
    from pythae.models import VQVAE, VQVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch.utils.data import DataLoader, Subset

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Any:
            return ModelOutput(embedding=self.body(x).mean)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z).mean)

    class InOrder(BaseTrainer):  # type: ignore[misc]
        def get_train_dataloader(self, train_dataset: Any) -> Any:
            return DataLoader(train_dataset, batch_size=BATCH, collate_fn=collate_dataset_output)

    seed_everything(seed)
    like = build(vqvae(**OF_PYTHAE), data_shape=SHAPE)  # the weights that the zoo's training begins with
    options = {"num_embeddings": CODES, "use_ema": True, "decay": DECAY, "commitment_loss_factor": BETA}
    config = VQVAEConfig(input_dim=SHAPE, latent_dim=WIDTH, **options)
    model = VQVAE(config, encoder=Encoder(like.encoder), decoder=Decoder(like.decoder))
    x = images()
    order: list[int] = torch.cat([step_indices(len(x), BATCH, step, seed) for step in range(steps)]).tolist()
    data = Subset(BaseDataset(x, torch.zeros(len(x))), order)
    settings = {"per_device_train_batch_size": BATCH, "num_epochs": 1, "learning_rate": RATE, "seed": seed}
    trainer = InOrder(model, data, training_config=BaseTrainerConfig(output_dir=str(folder), no_cuda=True, **settings))

    def training() -> GenerativeModel:
        trainer.train()
        trained: GenerativeModel = moved(model, like)
        return trained

    return training


CONTESTANTS = {
    REFERENCE: by_pythae,
    "zoo": by_zoo,
    "zoo, precision: bf16": by_zoo_in_bf16,
    "zoo with pythae's loss": by_zoo_with_loss_of_pythae,
}


def data_name() -> str:
    try:
        load("uoft-cs/cifar10", "test")
    except ZooError:
        return "core/shapes"
    return "uoft-cs/cifar10"


def images() -> Tensor:
    """x (N, 3, 32, 32) of the training split."""
    data = load(data_name(), "train")
    batch: dict[str, Any] = Preprocessing()(data.batch(torch.arange(len(data))))
    x: Tensor = batch["image"]
    return x


@torch.no_grad()
def moved(trained: Any, like: GenerativeModel) -> Any:
    """The zoo's model with what pythae has trained; both reconstruct alike."""
    model: Any = build(vqvae(**OF_PYTHAE), data_shape=SHAPE)
    model.load_state_dict(like.state_dict())  # the encoder and decoder that pythae's model holds
    model.quantizer.e.copy_(trained.quantizer.embeddings)
    x = torch.rand(8, *SHAPE)
    torch.testing.assert_close(model.eval().reconstruct(x), trained.eval().reconstruct(x).clamp(0, 1))
    model.preprocessing = Preprocessing()
    return model


def compete(name: str, steps: int, seed: int) -> dict[str, float]:
    """One contestant's training in this process, less a short one: what it costs to begin and to save falls out."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        CONTESTANTS[name](SHORT, seed, folder / "first")()
        _, short = timed(CONTESTANTS[name](SHORT, seed, folder / "short"))
        model, long = timed(CONTESTANTS[name](SHORT + steps, seed, folder / "long"))
    measured = evaluate(model, [build(metric) for metric in METRICS], load(data_name(), "test"))
    told = {key: value for name, m in measured.items() for key, value in ((name, m.value), (f"{name}_error", m.error))}
    return {"wall": (long.wall - short.wall) / steps, "cpu": (long.cpu - short.cpu) / steps, **told}


def timed(training: Training) -> tuple[GenerativeModel, Cost]:
    wall, cpu = time.perf_counter(), time.process_time()
    model = training()
    return model, Cost(time.perf_counter() - wall, time.process_time() - cpu)


def result(name: str, steps: int, seed: int) -> dict[str, float]:
    """What a process of its own tells."""
    command = [sys.executable, __file__, name, str(steps), str(seed)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | SAME)
    told: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    print(f"  {name}, seed {seed}: {told}", file=sys.stderr, flush=True)
    return told


def spread(own: list[dict[str, float]]) -> float:
    """The standard deviation of the MSE over rounds; of a single one the standard error over images."""
    return statistics.stdev(r["mse"] for r in own) if len(own) > 1 else own[0]["mse_error"]


def tell(results: dict[str, list[dict[str, float]]], steps: int) -> None:
    rounds = len(results[REFERENCE])
    print(f"\ntraining a VQ-VAE on {data_name()}, {steps:,} steps of {BATCH}   ({conditions(rounds)})")
    print(
        f"  {'':24}{'ms/step':>9}{'cpu ms':>8}{'cpu ratio':>11}{'min-max':>12}"
        f"{'test MSE':>20}{'PSNR':>8}{'perplexity':>12}{'used':>7}"
    )
    for name, own in results.items():
        ratios = [b["cpu"] / a["cpu"] for a, b in zip(own, results[REFERENCE], strict=True)]
        mean = {key: statistics.mean(r[key] for r in own) for key in own[0]}
        mse = mean["mse"]
        print(
            f"  {name:24}{statistics.median(1000 * r['wall'] for r in own):9.0f}"
            f"{statistics.median(1000 * r['cpu'] for r in own):8.0f}{statistics.median(ratios):11.2f}"
            f"{f'{min(ratios):.2f}-{max(ratios):.2f}':>12}"
            f"{f'{mse:.5f} ± {spread(own):.5f}':>20}{mean['psnr']:8.2f}"
            f"{mean['codebook_perplexity']:12.1f}{mean['codebook_used']:7.1%}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] and sys.argv[1] in CONTESTANTS:
        print(json.dumps(compete(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        steps, rounds = (*map(int, sys.argv[1:]), *(STEPS, ROUNDS)[len(sys.argv) - 1 :])
        tell(in_turns(CONTESTANTS, lambda name, seed: result(name, steps, seed), rounds), steps)
