"""The smallest model that trains as a large one does."""

from typing import Any

from zoo_core import build

VAE: dict[str, Any] = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [16]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
    "prior": "nets/standard_normal",
}


def vae(shape: tuple[int, ...]) -> Any:
    """One for data of that shape, whose weights are the same each time."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(VAE, "model", data_shape=shape)
