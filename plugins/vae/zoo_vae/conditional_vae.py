"""A VAE of the data given a label."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core import (
    Batch,
    ConfigError,
    DataError,
    Decoder,
    Encoder,
    GenerativeModel,
    LatentVariableModel,
    PositiveInt,
    Prior,
    Shape,
)

Labels = int | Sequence[int] | Tensor  # one for all, or (B,), each from 0 to classes - 1
WIDENED = {"encoder": "data_shape", "decoder": "latent_shape"}


class ConditionalVAE(GenerativeModel):
    """p(x|y) = ∫ p(x|z, y) p(z) dz for labels y, with q(z|x, y); ``given(batch)`` is the model of x under its labels.

    Encoder and decoder are told y by ``classes`` further channels, one-hot and the same at every place: they take
    data (C + classes, H, W) and latents (D + classes,), and a config need not say so. p(y) is uniform.

    Semi-supervised learning with deep generative models (Kingma et al., 2014) https://arxiv.org/abs/1406.5298, M2
    Learning structured output representation using deep conditional generative models (Sohn et al., 2015)
    https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models

    Raises:
        ConfigError: encoder or decoder have no room for the label.
        DataError: a label is missing or is none of the classes.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder, prior: Prior | GenerativeModel, classes: PositiveInt
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior, self.classes = encoder, decoder, prior, classes
        self.data_shape, self.latent_shape = tuple(decoder.data_shape), tuple(encoder.latent_shape)
        require_room("encoder.data_shape", encoder.data_shape, self.data_shape, classes)
        require_room("decoder.latent_shape", decoder.latent_shape, self.latent_shape, classes)
        self.labelled(0)  # refuses a prior of other latents

    @classmethod
    def shapes_for(cls, part: str, shapes: Mapping[str, Any], arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Encoder and decoder have room for the label too."""
        name = WIDENED.get(part)
        if name is None or name not in shapes:
            return shapes
        return {**shapes, name: widened(shapes[name], arguments["classes"])}

    def given(self, batch: Batch) -> LatentVariableModel:
        if "label" not in batch:
            raise DataError("conditional_vae needs the label of each example; use data that have a column 'label'")
        return self.labelled(batch["label"])

    def labelled(self, label: Labels) -> "Labelled":
        """p(x|y) as a model of x alone, with the same parameters; for labels () or (B,), of batches of B."""
        y = one_hot(label, self.classes, next(self.parameters()).device)
        encoder = LabelledEncoder(self.encoder, self.data_shape, y)
        view = Labelled(encoder, LabelledDecoder(self.decoder, self.latent_shape, y), self.prior)
        view.preprocessing, view.provenance = self.preprocessing, self.provenance
        return view

    def draw(self, n: int, *, label: int | Sequence[int] | None = None, noise: bool = False) -> Tensor:
        """z ~ p(z), then the mean of p(x|z, y), or with ``noise`` x ~ p(x|z, y) itself.

        Args:
            label: y, one or n; default 0, 1, 2, … in turn.
        """
        y = [i % self.classes for i in range(n)] if label is None else label
        if not isinstance(y, int) and len(y) != n:
            raise DataError(f"label: must be one, or as many as the {n} draws, got {len(y)}")
        return self.labelled(y).draw(n, noise=noise)

    def encode(self, x: Tensor, *, label: Labels | None = None) -> Tensor:
        """The mean of q(z|x, y), (B, *latent_shape)."""
        return self.labelled(told(label)).encode(x)

    def decode(self, z: Tensor, *, label: Labels | None = None) -> Tensor:
        """The mean of p(x|z, y), (*, *data_shape), in [0, 1] for images; labels (B,) are those of z's last batch."""
        return self.labelled(told(label)).decode(z)

    def reconstruct(self, x: Tensor, *, label: Labels | None = None) -> Tensor:
        """The mean of p(x|z, y) at the mean of q(z|x, y), (B, *data_shape)."""
        return self.labelled(told(label)).reconstruct(x)

    def log_prob(self, x: Tensor, *, label: Labels | None = None, samples: int = 1, chunk: int = 64) -> Tensor:
        """The importance-weighted bound on log p(x|y), or without label log 1/classes Σ_y exp(bound) ≤ log p(x), (B,).

        Args:
            samples, chunk: of each bound, as in ``LatentVariableModel``.
        """
        if label is not None:
            return self.labelled(label).log_prob(x, samples=samples, chunk=chunk)
        bounds = [self.labelled(y).log_prob(x, samples=samples, chunk=chunk) for y in range(self.classes)]
        return torch.logsumexp(torch.stack(bounds), 0) - math.log(self.classes)


class Labelled(LatentVariableModel):
    """p(x|y) for the labels of a batch: what ``ConditionalVAE`` is under them. It owns no parameters."""

    decoder: "LabelledDecoder"

    def draw(self, n: int, *, noise: bool = False) -> Tensor:
        """As any, with the labels of the batch in turn."""
        p = self.decoder.in_turn(n)(self.prior().sample((n,)))
        x: Tensor = p.sample() if noise else p.mean.clamp(0, 1)
        return x


class LabelledEncoder(Encoder):
    """q(z|x, y) for one-hot y, (classes,) or (B, classes)."""

    def __init__(self, encoder: Encoder, data_shape: Shape, y: Tensor) -> None:
        super().__init__()
        self.encoder, self.y = encoder, y
        self.data_shape, self.latent_shape = tuple(data_shape), encoder.latent_shape

    def forward(self, x: Tensor) -> Distribution:
        q: Distribution = self.encoder(with_channels(x, self.y, len(self.data_shape)))
        return q


class LabelledDecoder(Decoder):
    """p(x|z, y) for one-hot y, (classes,) or (B, classes)."""

    def __init__(self, decoder: Decoder, latent_shape: Shape, y: Tensor) -> None:
        super().__init__()
        self.decoder, self.y = decoder, y
        self.data_shape, self.latent_shape = decoder.data_shape, tuple(latent_shape)

    def forward(self, z: Tensor) -> Distribution:
        p: Distribution = self.decoder(with_channels(z, self.y, len(self.latent_shape)))
        return p

    def in_turn(self, n: int) -> "LabelledDecoder":
        """The same for n labels, which are these over and over."""
        y = self.y.reshape(-1, self.y.shape[-1])
        return LabelledDecoder(self.decoder, self.latent_shape, y[torch.arange(n, device=y.device) % len(y)])


def one_hot(label: Labels, classes: int, device: torch.device) -> Tensor:
    """Labels (*) as rows of the identity, (*, classes).

    Raises:
        DataError: they are no integers, or none of the classes.
    """
    y = torch.as_tensor(label, device=device)
    if y.is_floating_point() or y.dtype == torch.bool:
        raise DataError(f"label: must be integers from 0 to {classes - 1}, got {y.dtype}")
    if not y.is_meta and (wrong := y[(y < 0) | (y >= classes)]).numel():
        raise DataError(f"label: must be from 0 to {classes - 1}, the classes of the model, got {int(wrong[0])}")
    return (y.unsqueeze(-1) == torch.arange(classes, device=device)).float()


def with_channels(x: Tensor, y: Tensor, event_dim: int) -> Tensor:
    """x (*, C, *places) with y (classes,) or (B, classes) as further channels, the same at every place."""
    leading, places = x.shape[: x.dim() - event_dim], x.shape[x.dim() - event_dim + 1 :]
    planes = y.to(x.dtype).reshape(*y.shape, *[1] * len(places)).expand(*leading, y.shape[-1], *places)
    return torch.cat([x, planes], -event_dim)


def widened(shape: Shape, classes: int) -> tuple[int, ...]:
    """(C, *places) with room for a one-hot label: (C + classes, *places)."""
    return (shape[0] + classes, *shape[1:])


def require_room(name: str, shape: Shape, own: Shape, classes: int) -> None:
    """Refuses a part that is not told the label."""
    if tuple(shape) != widened(own, classes):
        told = f"{widened(own, classes)}, which is {tuple(own)} with the label in {classes} further channels"
        raise ConfigError(f"{name}: must be {told}; got {tuple(shape)}")


def told(label: Labels | None) -> Labels:
    if label is None:
        raise DataError("conditional_vae knows x given its label alone: add label=…, or take model.given(batch)")
    return label
