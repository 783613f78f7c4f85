"""How the conformance kit tries what this plugin offers: losses and metrics on a model with a quantizer."""

from typing import Any


def _vqvae(latents: int, quantizer: dict[str, Any]) -> dict[str, Any]:
    encoder = {"type": "reference/linear_encoder", "latents": latents, "layout": "grid"}
    parts = {"encoder": encoder, "quantizer": quantizer, "decoder": "reference/linear_decoder"}
    return {"type": "vqvae/vqvae", **parts, "prior": "vqvae/uniform_codes"}


_NEAREST = _vqvae(3, {"type": "vqvae/nearest", "codes": 5})
MODELS = {"vq": _NEAREST, "codebook": _NEAREST, "dvae": _vqvae(5, {"type": "vqvae/gumbel"})}
