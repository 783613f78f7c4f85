"""How the conformance kit tries what this plugin offers."""

_SIZE = {"vocabulary": 256, "text_length": 8, "dim": 12, "depth": 1, "heads": 2}
_FIRST_STAGE = {
    "type": "vqvae/vqvae",
    "encoder": {"type": "nets/conv_encoder", "latents": 3, "channels": [4, 4], "layout": "grid"},
    "quantizer": {"type": "reference/lattice"},
    "decoder": {"type": "nets/conv_decoder", "channels": [4, 4]},
}
_DALLE = {"type": "dalle/dalle", "first_stage": _FIRST_STAGE, **_SIZE}
_ENCODER = {"type": "reference/linear_encoder", "latents": 3}
_SCORER = {"type": "dalle/scorer", "encoder": _ENCODER, "embedding": 4, **_SIZE}


def _arguments(config: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in config.items() if name != "type"}


EXAMPLES = {
    "dalle": _arguments(_DALLE),
    "scorer": _arguments(_SCORER),
    "autoregressive": {"dim": 12, "depth": 1, "heads": 2},
}
SHAPES = {"autoregressive": {"data_shape": (2, 2)}}
MODELS = {"text_image": _DALLE, "contrastive": _SCORER, "retrieval": _SCORER}
LOSSES = {
    "dalle": {"type": "dalle/text_image"},
    "scorer": {"type": "dalle/contrastive"},
    "retrieval": {"type": "dalle/contrastive"},
}
EXPECTED_FAILURES = {
    "contrastive::mean_over_the_batch": "each picture is compared with all captions of its batch",
    "retrieval::parts_and_whole": "a caption is found among those of its batch: the fewer these are, the oftener",
}
