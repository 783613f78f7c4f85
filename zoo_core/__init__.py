"""Latent Zoo: variational generative models as plugins, combined by name, shared on the Hub.

Public names are loaded on first use, so that ``import zoo_core`` costs nothing and listing plugins never
imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; a test keeps it equal to _PUBLIC
    from zoo_core.arguments import Bounds as Bounds
    from zoo_core.arguments import NonNegativeFloat as NonNegativeFloat
    from zoo_core.arguments import NonNegativeInt as NonNegativeInt
    from zoo_core.arguments import PositiveFloat as PositiveFloat
    from zoo_core.arguments import PositiveInt as PositiveInt
    from zoo_core.arguments import Probability as Probability
    from zoo_core.arguments import Shape as Shape
    from zoo_core.components import AdversarialLoss as AdversarialLoss
    from zoo_core.components import Batch as Batch
    from zoo_core.components import Component as Component
    from zoo_core.components import Decoder as Decoder
    from zoo_core.components import Encoder as Encoder
    from zoo_core.components import GenerativeModel as GenerativeModel
    from zoo_core.components import LatentVariableModel as LatentVariableModel
    from zoo_core.components import Likelihood as Likelihood
    from zoo_core.components import Loss as Loss
    from zoo_core.components import LossOutput as LossOutput
    from zoo_core.components import Posterior as Posterior
    from zoo_core.components import Prior as Prior
    from zoo_core.components import Quantized as Quantized
    from zoo_core.components import Quantizer as Quantizer
    from zoo_core.components import StatisticalModel as StatisticalModel
    from zoo_core.config import build as build
    from zoo_core.config import check as check
    from zoo_core.config import describe as describe
    from zoo_core.distributions import CodeGrid as CodeGrid
    from zoo_core.distributions import Dirac as Dirac
    from zoo_core.distributions import DiscretizedLogisticMixture as DiscretizedLogisticMixture
    from zoo_core.distributions import Levels as Levels
    from zoo_core.distributions import LogitLaplace as LogitLaplace
    from zoo_core.distributions import has_closed_form_kl as has_closed_form_kl
    from zoo_core.distributions import kl as kl
    from zoo_core.distributions import kl_per_dimension as kl_per_dimension
    from zoo_core.errors import CheckpointError as CheckpointError
    from zoo_core.errors import ConfigError as ConfigError
    from zoo_core.errors import DataError as DataError
    from zoo_core.errors import PluginError as PluginError
    from zoo_core.errors import Stopped as Stopped
    from zoo_core.errors import TrainingError as TrainingError
    from zoo_core.errors import UnknownComponent as UnknownComponent
    from zoo_core.errors import ZooError as ZooError
    from zoo_core.evaluation import evaluate as evaluate
    from zoo_core.hookspecs import ZooHooks as ZooHooks
    from zoo_core.hookspecs import hookimpl as hookimpl
    from zoo_core.host import PluginHost as PluginHost
    from zoo_core.host import default_host as default_host
    from zoo_core.metrics import Extractor as Extractor
    from zoo_core.metrics import Measurement as Measurement
    from zoo_core.metrics import Metric as Metric
    from zoo_core.metrics import SampleMetric as SampleMetric
    from zoo_core.pins import published as published
    from zoo_core.pretrained import from_pretrained as from_pretrained
    from zoo_core.pretrained import save_pretrained as save_pretrained
    from zoo_core.publishing import push_to_hub as push_to_hub
    from zoo_core.specs import CheckpointSpec as CheckpointSpec
    from zoo_core.specs import DatasetSpec as DatasetSpec
    from zoo_core.specs import DecoderSpec as DecoderSpec
    from zoo_core.specs import EncoderSpec as EncoderSpec
    from zoo_core.specs import ExtractorSpec as ExtractorSpec
    from zoo_core.specs import LikelihoodSpec as LikelihoodSpec
    from zoo_core.specs import LossSpec as LossSpec
    from zoo_core.specs import MetricSpec as MetricSpec
    from zoo_core.specs import ModelSpec as ModelSpec
    from zoo_core.specs import PosteriorSpec as PosteriorSpec
    from zoo_core.specs import PriorSpec as PriorSpec
    from zoo_core.specs import QuantizerSpec as QuantizerSpec
    from zoo_core.specs import Spec as Spec
    from zoo_core.training import fit_prior as fit_prior
    from zoo_core.training import read_recipe as read_recipe
    from zoo_core.training import train as train

_PUBLIC = {
    "zoo_core.arguments": (
        "Bounds", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt", "Probability", "Shape",
    ),
    "zoo_core.components": (
        "AdversarialLoss", "Batch", "Component", "Decoder", "Encoder", "GenerativeModel", "LatentVariableModel",
        "Likelihood", "Loss", "LossOutput", "Posterior", "Prior", "Quantized", "Quantizer", "StatisticalModel",
    ),
    "zoo_core.config": ("build", "check", "describe"),
    "zoo_core.distributions": (
        "CodeGrid", "Dirac", "DiscretizedLogisticMixture", "Levels", "LogitLaplace", "has_closed_form_kl", "kl",
        "kl_per_dimension",
    ),
    "zoo_core.evaluation": ("evaluate",),
    "zoo_core.errors": (
        "CheckpointError", "ConfigError", "DataError", "PluginError", "Stopped", "TrainingError", "UnknownComponent",
        "ZooError",
    ),
    "zoo_core.hookspecs": ("ZooHooks", "hookimpl"),
    "zoo_core.host": ("PluginHost", "default_host"),
    "zoo_core.metrics": ("Extractor", "Measurement", "Metric", "SampleMetric"),
    "zoo_core.pins": ("published",),
    "zoo_core.pretrained": ("from_pretrained", "save_pretrained"),
    "zoo_core.publishing": ("push_to_hub",),
    "zoo_core.specs": (
        "CheckpointSpec", "DatasetSpec", "DecoderSpec", "EncoderSpec", "ExtractorSpec", "LikelihoodSpec", "LossSpec",
        "MetricSpec", "ModelSpec", "PosteriorSpec", "PriorSpec", "QuantizerSpec", "Spec",
    ),
    "zoo_core.training": ("fit_prior", "read_recipe", "train"),
}  # fmt: skip
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_HOME)

if not TYPE_CHECKING:  # to a type checker a misspelt name must stay an error

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'zoo_core' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
