"""How the conformance kit tries what this plugin offers."""

_POINT = {"type": "nets/mlp_encoder", "latents": 3, "hidden": [4], "posterior": "autoencoder/sigmoid"}
_LINEAR, _NORMAL = {"type": "reference/linear_decoder"}, {"type": "reference/standard_normal"}
MODELS = {"sparse_kl": {"type": "autoencoder/autoencoder", "encoder": _POINT, "decoder": _LINEAR, "prior": _NORMAL}}
LOSSES = {name: {"type": "autoencoder/reconstruction"} for name in ("autoencoder", "tied_autoencoder")}
