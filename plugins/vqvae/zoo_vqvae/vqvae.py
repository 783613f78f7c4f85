"""The vector-quantised autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo_core import Batch, ConfigError, Decoder, Encoder, GenerativeModel, Prior, Quantizer
from zoo_vqvae.uniform_codes import UniformCodes


class VQVAE(GenerativeModel):
    """p(x) = Σ_k P(k) p(x|z_q(k)): codes k of a codebook, which a quantizer finds for what an encoder emits.

    Neural discrete representation learning (van den Oord et al., 2017) https://arxiv.org/abs/1711.00937

    Args:
        encoder: its mean is quantized; a width, such as a Gaussian's, is not used: take ``posterior: nets/dirac``.
        quantizer: from z to codes k, and from them to z_q.
        decoder: p(x|z_q).
        prior: P(k), any density of codes; default uniform, whose samples are noise until a prior has been fitted.

    Attributes:
        latent_shape: of the codes, which are the latents of this model.

    Raises:
        ConfigError: the parts disagree about a shape, or the prior is no density of these codes.
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder,
        prior: Prior | GenerativeModel | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.data_shape, self.latent_shape = decoder.data_shape, quantizer.codes_shape
        self.prior = UniformCodes(quantizer.codes_shape, quantizer.codebook_size) if prior is None else prior
        require_equal("data_shape", encoder=encoder.data_shape, decoder=decoder.data_shape)
        z_shapes = {"encoder": encoder.latent_shape, "quantizer": quantizer.latent_shape}
        require_equal("latent_shape", **z_shapes, decoder=decoder.latent_shape)
        require_codes(self.prior, quantizer)

    @classmethod
    def shapes_for(cls, part: str, shapes: Mapping[str, Any], arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The latents of the prior are codes."""
        return {**shapes, "latent_shape": shapes["codes_shape"]} if part == "prior" else shapes

    @property
    def support(self) -> constraints.Constraint:
        """The values that p(x) is about."""
        k = torch.zeros((1, *self.latent_shape), dtype=torch.long, device=next(self.parameters()).device)
        values: constraints.Constraint = self.decoder(self.quantizer.lookup(k)).support
        return values

    def encode(self, x: Tensor) -> Tensor:
        """The codes k of x, int64 (B, *latent_shape)."""
        return self.quantizer.encode(self.encoder(x).mean)

    def decode(self, k: Tensor) -> Tensor:
        """The mean of p(x|z_q(k)), (*, *data_shape), in [0, 1] for images, for codes k (*, *latent_shape)."""
        mean: Tensor = self.decoder(self.quantizer.lookup(k)).mean
        return mean.clamp(0, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z_q(k)) at the codes k of x, (B, *data_shape)."""
        return self.decode(self.encode(x))

    def draw(self, n: int, *, label: int | Sequence[int] | None = None, noise: bool = False) -> Tensor:
        """k ~ P(k), then the mean of p(x|z_q(k)), as pictures are shown; with ``noise`` x ~ p(x|z_q(k)) itself.

        Args:
            label: for a prior P(k|label), one or n.

        Raises:
            ConfigError: a label is given, but the prior knows none.
        """
        k = self.prior().sample((n,)) if label is None else self._labelled(label, n).sample(n)
        return self.decoder(self.quantizer.lookup(k)).sample() if noise else self.decode(k)

    def given(self, batch: Batch) -> "VQVAE":
        """With the prior given the batch, if that has a condition: such as P(k|label)."""
        prior = self.prior.given(batch)
        if prior is self.prior:
            return self
        view = VQVAE(self.encoder, self.quantizer, self.decoder, prior)
        view.preprocessing, view.provenance = self.preprocessing, self.provenance
        return view.train(self.training)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z_q(k)) + log P(k) at the codes k of x, (B,): one term of the sum, so a lower bound on log p(x)."""
        k = self.encode(x)
        log_p: Tensor = self.decoder(self.quantizer.lookup(k)).log_prob(x) + self.prior().log_prob(k)
        return log_p

    def _labelled(self, label: int | Sequence[int], n: int) -> GenerativeModel:
        labels = [label] * n if isinstance(label, int) else list(label)
        if len(labels) != n:
            raise ConfigError(f"label: must be one, or as many as the {n} draws, got {len(labels)}")
        given = self.prior.given({"label": torch.tensor(labels)})
        if given is self.prior:
            raise ConfigError(f"label: the prior {type(self.prior).__name__} is given none")
        return given


def require_equal(name: str, **shapes: tuple[int, ...]) -> None:
    """Refuses parts that do not have the same shape of that name.

    Raises:
        ConfigError: naming each part and its shape.
    """
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        told = ", ".join(f"{part} {tuple(shape)}" for part, shape in shapes.items())
        raise ConfigError(f"the parts differ in {name}: {told}")


def require_codes(prior: GenerativeModel, quantizer: Quantizer) -> None:
    """Refuses what is no density of a quantizer's codes: over real latents, of another shape, or of other codes.

    Raises:
        ConfigError: with what the prior has to be.
    """
    found = tuple(prior.data_shape), getattr(prior, "codebook_size", None)
    if found != (quantizer.codes_shape, quantizer.codebook_size):
        of = "real latents" if found[1] is None else f"{found[1]} codes"
        raise ConfigError(
            f"prior: must be a density of {quantizer.codebook_size} codes of shape {quantizer.codes_shape}, such as"
            f" vqvae/uniform_codes; {type(prior).__name__} is one of {of} of shape {found[0]}"
        )
