"""Latent Zoo: variational generative models as plugins, combined by name, shared on the Hub.

Public names are loaded on first use, so that ``import zoo_core`` costs nothing and listing plugins never
imports torch.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "zoo_core.arguments": (
        "Bounds", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt", "Probability", "Shape",
    ),
    "zoo_core.components": (
        "Batch", "Component", "Decoder", "Encoder", "GenerativeModel", "LatentVariableModel", "Likelihood",
        "Loss", "LossOutput", "Measurement", "Metric", "Posterior", "Prior", "Quantized", "Quantizer",
    ),
    "zoo_core.config": ("build", "check", "describe"),
    "zoo_core.distributions": (
        "CodeGrid", "Dirac", "DiscretizedLogisticMixture", "LogitLaplace", "has_closed_form_kl", "kl",
        "kl_per_dimension",
    ),
    "zoo_core.errors": (
        "CheckpointError", "ConfigError", "DataError", "PluginError", "TrainingError", "UnknownComponent", "ZooError",
    ),
    "zoo_core.hookspecs": ("ZooHooks", "hookimpl"),
    "zoo_core.host": ("PluginHost", "default_host"),
    "zoo_core.specs": (
        "CheckpointSpec", "DatasetSpec", "DecoderSpec", "EncoderSpec", "LikelihoodSpec", "LossSpec", "MetricSpec",
        "ModelSpec", "PosteriorSpec", "PriorSpec", "QuantizerSpec", "Spec",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo_core' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
