"""The smallest model that trains as a large one does."""

from typing import Any

VAE: dict[str, Any] = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [16]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
    "prior": "nets/standard_normal",
}
