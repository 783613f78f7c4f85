"""How the conformance kit tries what this plugin offers: small, and with networks of random weights."""

import functools
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from zoo_core import build, save_pretrained

_COLOUR = (3, 8, 8)
_CLASSIFIER = {
    "type": "metrics/classifier",
    "encoder": {"type": "nets/conv_encoder", "latents": 4, "channels": [4], "posterior": "nets/diagonal_gaussian"},
    "classes": 3,
}
_FOLDERS = tempfile.TemporaryDirectory(prefix="zoo-metrics-")  # removed when the process ends
_SIDE = 16


def _folder(name: str) -> Path:
    return Path(_FOLDERS.name) / name


@functools.cache
def _classifier() -> str:
    """A checkpoint of a classifier with random weights."""
    return str(save_pretrained(build(_CLASSIFIER, "model", data_shape=_COLOUR), _folder("classifier")))


@functools.cache
def _clip() -> str:
    """A CLIP with random weights, its tokenizer and its image processor, in a folder as on the Hub."""
    import torch
    import transformers

    folder = _folder("clip")
    folder.mkdir()
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    size: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    config = transformers.CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 40},
        vision_config={**size, "image_size": _SIDE, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)  # of random weights some find noise as fitting as pictures; these do not
        _loud(transformers.CLIPModel(config)).save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}
    )
    made: Any = transformers.CLIPProcessor
    made(processor, tokenizer).save_pretrained(folder)
    return str(folder)


@functools.cache
def _dinov2() -> str:
    """A DINOv2 with random weights and its image processor, in a folder as on the Hub."""
    import transformers

    folder = _folder("dinov2")
    size: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 1}
    config = transformers.Dinov2Config(**size, image_size=_SIDE, patch_size=8)
    _loud(transformers.Dinov2Model(config)).save_pretrained(folder)
    crop = {"height": _SIDE, "width": _SIDE}
    transformers.BitImageProcessor(size={"shortest_edge": _SIDE}, crop_size=crop).save_pretrained(folder)
    return str(folder)


def _loud(network: Any) -> Any:
    """With weights so large that everything about an image shows."""
    import torch

    for p in network.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.3)
    return network


_VOTES = {"train_votes": 200, "test_votes": 100, "batch": 8}
EXAMPLES = {
    "ais": {"chains": 2, "temperatures": 4, "leapfrog": 1},
    "caption_retrieval": {"scorer": "scorer-shapes"},
    "clip_score": lambda: {"model": _clip()},
    "dci": {"estimators": 5},
    "factor_vae_score": _VOTES,
    "beta_vae_score": _VOTES,
    "inception_score": lambda: {
        "extractor": {"type": "metrics/classifier_features", "checkpoint": _classifier()},
        "splits": 1,  # which examples fall into which split goes by their places
    },
    "interpolation_smoothness": {"extractor": {"type": "metrics/pixels"}},
    "classifier": {name: value for name, value in _CLASSIFIER.items() if name != "type"},
    "classifier_features": lambda: {"checkpoint": _classifier()},
    "clip": lambda: {"model": _clip()},
    "dinov2": lambda: {"model": _dinov2()},
    "inception": {"path": "pt_inception-2015-12-05-6726825d.pth"},
}
SHAPES = {
    "caption_retrieval": {"data_shape": (3, 32, 32)},
    "shape_attributes": {"data_shape": (3, 16, 16)},
    "inception_score": {"data_shape": _COLOUR},
    "ssim": {"data_shape": (1, 12, 12)},
    "classifier": {"data_shape": _COLOUR},
    "classifier_features": {"data_shape": _COLOUR},
    "cross_entropy": {"data_shape": _COLOUR},
    "accuracy": {"data_shape": _COLOUR},
}
_PICTURES = {"name": "core/shapes", "split": "test"}
DATA = {"shape_attributes": {**_PICTURES, "image_size": 16}, "caption_retrieval": _PICTURES}
_LINEAR = {
    "type": "reference/linear_gaussian",
    "encoder": {"type": "reference/linear_encoder", "latents": 3},
    "decoder": {"type": "reference/linear_decoder"},
    "prior": {"type": "reference/standard_normal"},
}
_ECHO = {"type": "reference/echo"}
MODELS = {
    "bits_per_dim": {
        "type": "nets/variational_dequantization",
        "model": _LINEAR,
        "channels": [3],
    },
    "cross_entropy": _CLASSIFIER,
    "accuracy": _CLASSIFIER,
    "nearest_image": _ECHO,
    "shape_attributes": _ECHO,
    "clip_score": _ECHO,
    "caption_retrieval": _ECHO,
}
LOSSES = {"accuracy": {"type": "metrics/cross_entropy"}, "classifier": {"type": "metrics/cross_entropy"}}


def _mean_square(model: Any, batch: Any) -> dict[str, float]:
    return {"mse": float((model.reconstruct(batch["image"]) - batch["image"]).square().mean())}


def _log_density(model: Any, batch: Any) -> dict[str, float]:
    """The kit's linear model has its own posterior for q(z|x): each weight of importance is p(x)."""
    return {"log_prob": float(model.log_density(batch["image"]).mean())}


VALUES = {
    "fd": {"fd": 0.0},
    "precision_recall": {"precision": 1.0, "recall": 1.0},
    "density_coverage": {"coverage": 1.0},
    "nearest_image": {"nearest_image_accuracy": 1.0},
    "shape_attributes": {"caption_accuracy": 1.0, "relation_accuracy": 1.0},
    "mse": _mean_square,
    "log_prob": _log_density,
}
EXPECTED_FAILURES = {
    "inception::features": "its network is a file of weights that the user has, and of a package that is large",
    "continuity::order_of_batches": "of examples at equal distances, as zeros and ones have many, the earlier counts",
    "dci::order_of_batches": "which examples the trees learn from, and which they are tried on, goes by their places",
}
if importlib.util.find_spec("lpips") is None:
    EXPECTED_FAILURES["lpips::measurements"] = "the package lpips, which has the network, is not installed"
