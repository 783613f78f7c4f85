"""The hooks through which plugins offer components. Nothing here imports torch.

A plugin is a distribution ``zoo-<name>`` with one entry point in the group ``zoo_core``, called
``<name>``, whose value is a light module; each function in it that is marked ``@hookimpl`` and named
after a hook yields specs. Each example below is a whole hook and runs as it stands.

A class may subclass :class:`ZooHooks` instead, and a type checker then compares the signatures.
"""

from collections.abc import Iterable

import pluggy

from zoo_core.specs import (
    CheckpointSpec,
    DatasetSpec,
    DecoderSpec,
    EncoderSpec,
    ExtractorSpec,
    LikelihoodSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    PosteriorSpec,
    PriorSpec,
    QuantizerSpec,
    Spec,
)

GROUP = "zoo_core"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class ZooHooks:
    """Ten hooks, none of which takes an argument; each returns an iterable of frozen specs."""

    @hookspec
    def zoo_encoders(self) -> Iterable[EncoderSpec | PosteriorSpec]:
        """Encoders q(z|x), and the posteriors with which their bodies are composed.

        >>> from zoo_core import EncoderSpec, hookimpl
        >>> @hookimpl
        ... def zoo_encoders():
        ...     yield EncoderSpec(name="conv", target="zoo_my.conv:Conv", summary="Strided convolutions.",
        ...                       emits=("vector[real]", "grid[real]"))
        """
        raise NotImplementedError

    @hookspec
    def zoo_decoders(self) -> Iterable[DecoderSpec | LikelihoodSpec]:
        """Decoders p(x|z), and the likelihoods with which their bodies are composed.

        >>> from zoo_core import LikelihoodSpec, hookimpl
        >>> @hookimpl
        ... def zoo_decoders():
        ...     yield LikelihoodSpec(name="poisson", target="zoo_my.poisson:Poisson", summary="Counts.")
        """
        raise NotImplementedError

    @hookspec
    def zoo_priors(self) -> Iterable[PriorSpec]:
        """Priors p(z).

        >>> from zoo_core import PriorSpec, hookimpl
        >>> @hookimpl
        ... def zoo_priors():
        ...     yield PriorSpec(name="flow", target="zoo_my.flow:Flow", summary="Masked autoregressive flow.")
        """
        raise NotImplementedError

    @hookspec
    def zoo_losses(self) -> Iterable[LossSpec]:
        """Training objectives.

        >>> from zoo_core import LossSpec, hookimpl
        >>> @hookimpl
        ... def zoo_losses():
        ...     yield LossSpec(name="elbo", target="zoo_my.elbo:ELBO", summary="-ELBO.", bound=True)
        """
        raise NotImplementedError

    @hookspec
    def zoo_metrics(self) -> Iterable[MetricSpec]:
        """Measurements of a model on held-out data.

        >>> from zoo_core import MetricSpec, hookimpl
        >>> @hookimpl
        ... def zoo_metrics():
        ...     yield MetricSpec(name="mse", target="zoo_my.mse:MSE", summary="Squared error per pixel.",
        ...                      better="lower", unit="squared intensity")
        """
        raise NotImplementedError

    @hookspec
    def zoo_extractors(self) -> Iterable[ExtractorSpec]:
        """Features of images, by which metrics compare samples with data.

        >>> from zoo_core import ExtractorSpec, hookimpl
        >>> @hookimpl
        ... def zoo_extractors():
        ...     yield ExtractorSpec(name="edges", target="zoo_my.edges:Edges", summary="Histogram of edges.")
        """
        raise NotImplementedError

    @hookspec
    def zoo_quantizers(self) -> Iterable[QuantizerSpec]:
        """Maps from real latents to codes.

        >>> from zoo_core import QuantizerSpec, hookimpl
        >>> @hookimpl
        ... def zoo_quantizers():
        ...     yield QuantizerSpec(name="nearest", target="zoo_my.nearest:Nearest", summary="Codebook.")
        """
        raise NotImplementedError

    @hookspec
    def zoo_models(self) -> Iterable[ModelSpec]:
        """Generative models.

        >>> from zoo_core import ModelSpec, hookimpl
        >>> @hookimpl
        ... def zoo_models():
        ...     yield ModelSpec(name="vae", target="zoo_my.vae:VAE", summary="Variational autoencoder.",
        ...                     density="bound", sampling="parallel", latent="compressed")
        """
        raise NotImplementedError

    @hookspec
    def zoo_datasets(self) -> Iterable[DatasetSpec]:
        """Data sets that are not on the Hub.

        >>> from zoo_core import DatasetSpec, hookimpl
        >>> @hookimpl
        ... def zoo_datasets():
        ...     yield DatasetSpec(name="rings", target="zoo_my.rings:rings", summary="Concentric rings.")
        """
        raise NotImplementedError

    @hookspec
    def zoo_checkpoints(self) -> Iterable[CheckpointSpec]:
        """Published weights, in the plugin's wheel or on the Hub.

        >>> from zoo_core import CheckpointSpec, hookimpl
        >>> @hookimpl
        ... def zoo_checkpoints():
        ...     yield CheckpointSpec(name="vae-rings", target="zoo_my:checkpoints", hub="me/vae-rings",
        ...                          summary="A VAE on rings.")
        """
        raise NotImplementedError


# What each hook may yield: the host refuses anything else, with the name of the plugin that did it.
YIELDS: dict[str, tuple[type[Spec], ...]] = {
    "zoo_encoders": (EncoderSpec, PosteriorSpec),
    "zoo_decoders": (DecoderSpec, LikelihoodSpec),
    "zoo_priors": (PriorSpec,),
    "zoo_losses": (LossSpec,),
    "zoo_metrics": (MetricSpec,),
    "zoo_extractors": (ExtractorSpec,),
    "zoo_quantizers": (QuantizerSpec,),
    "zoo_models": (ModelSpec,),
    "zoo_datasets": (DatasetSpec,),
    "zoo_checkpoints": (CheckpointSpec,),
}

KINDS: tuple[str, ...] = tuple(spec.kind for specs in YIELDS.values() for spec in specs)
