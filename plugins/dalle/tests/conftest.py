"""Small models, so that everything about them can be counted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from zoo_dalle.dalle import DALLE

from zoo_core import build

FIRST_STAGE: dict[str, Any] = {
    "type": "vqvae/vqvae",
    "encoder": {"type": "nets/conv_encoder", "latents": 4, "channels": [8, 8], "layout": "grid"},
    "quantizer": {"type": "vqvae/nearest", "codes": 7},
    "decoder": {"type": "nets/conv_decoder", "channels": [8, 8]},
}


@pytest.fixture(scope="session")
def first_stage() -> dict[str, Any]:
    """The config of a model with 4 x 4 codes for pictures 16 x 16."""
    return FIRST_STAGE


@pytest.fixture(scope="session")
def dalle() -> Callable[..., DALLE]:
    """Makes models of pictures 3 x 16 x 16, with 4 x 4 codes of 7, and of captions of up to 6 bytes."""

    def made(side: int = 16, codes: int = 7, **arguments: Any) -> DALLE:
        first_stage = {**FIRST_STAGE, "quantizer": {"type": "vqvae/nearest", "codes": codes}}
        settings = {"vocabulary": 256, "text_length": 6, "dim": 24, "depth": 3, "heads": 3}
        config = {"type": "dalle/dalle", "first_stage": first_stage, **settings, **arguments}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: DALLE = build(config, "model", data_shape=(3, side, side)).eval()
            for parameter in model.stream.parameters():  # so that every token matters much
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return made
