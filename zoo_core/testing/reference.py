"""The kit's own parts: small, linear, and of known answers. They stand beside the parts of the plugin under test."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from zoo_core.arguments import PositiveFloat, PositiveInt, Shape
from zoo_core.components import (
    Batch,
    Decoder,
    Encoder,
    GenerativeModel,
    LatentVariableModel,
    Likelihood,
    Loss,
    LossOutput,
    Posterior,
    Prior,
    Quantized,
    Quantizer,
)
from zoo_core.distributions import CodeGrid
from zoo_core.hookspecs import ZooHooks, hookimpl
from zoo_core.metrics import Extractor
from zoo_core.specs import (
    DecoderSpec,
    EncoderSpec,
    ExtractorSpec,
    LikelihoodSpec,
    LossSpec,
    ModelSpec,
    PosteriorSpec,
    PriorSpec,
    QuantizerSpec,
)

NAME = "reference"


class LinearEncoder(Encoder):
    """q(z|x) = N(Wx + b, diag(sigma²)), the sigma learned; a grid has 2 x 2 positions."""

    def __init__(self, data_shape: Shape, latents: PositiveInt, layout: Literal["vector", "grid"] = "vector") -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.latent_shape = (latents,) if layout == "vector" else (latents, 2, 2)
        self.mean = nn.Linear(math.prod(data_shape), math.prod(self.latent_shape))
        self.log_sigma = nn.Parameter(torch.zeros(self.latent_shape))

    def forward(self, x: Tensor) -> Distribution:
        mu = self.mean(x.flatten(1)).unflatten(1, self.latent_shape)
        return _gaussian(mu, self.log_sigma.exp().expand_as(mu), len(self.latent_shape))


class LinearDecoder(Decoder):
    """p(x|z) = N(Wz + b, sigma² I)."""

    def __init__(self, data_shape: Shape, latent_shape: Shape, sigma: PositiveFloat = 0.5) -> None:
        super().__init__()
        self.data_shape, self.latent_shape, self.sigma = tuple(data_shape), tuple(latent_shape), sigma
        self.mean = nn.Linear(math.prod(latent_shape), math.prod(data_shape))

    def forward(self, z: Tensor) -> Distribution:
        flat = z.flatten(z.dim() - len(self.latent_shape)).to(self.mean.weight.dtype)
        mu = self.mean(flat).unflatten(-1, self.data_shape)
        return _gaussian(mu, torch.full_like(mu, self.sigma), len(self.data_shape))


class GaussianPosterior(Posterior):
    """N(mu, sigma²), half of the features each."""

    def channels(self, latents: int) -> int:
        return 2 * latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_sigma = h.chunk(2, dim=-event_dim)
        return _gaussian(mu, log_sigma.clamp(-8, 8).exp(), event_dim)


class GaussianLikelihood(Likelihood):
    """N(mu, 1/4)."""

    def channels(self, data: int) -> int:
        return data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return _gaussian(h, torch.full_like(h, 0.5), event_dim)


class StandardNormal(Prior):
    """N(0, I)."""

    zero: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.register_buffer("zero", torch.zeros(self.latent_shape))

    def forward(self, condition: object = None) -> Distribution:
        return _gaussian(self.zero, torch.ones_like(self.zero), len(self.latent_shape))


class UniformCodes(Prior):
    """All codes alike, at each position."""

    zero: Tensor

    def __init__(self, latent_shape: Shape, codebook_size: PositiveInt) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.codebook_size = codebook_size
        self.register_buffer("zero", torch.zeros((*self.latent_shape, codebook_size)))

    def forward(self, condition: object = None) -> Distribution:
        return CodeGrid(self.zero, len(self.latent_shape))


class Lattice(Quantizer):
    """Each vector to the nearest of five on a line."""

    codebook_size = 5
    codebook: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.codes_shape = self.latent_shape[1:]
        steps = torch.linspace(-1, 1, self.codebook_size)
        self.register_buffer("codebook", steps.unsqueeze(1).repeat(1, self.latent_shape[0]))

    def encode(self, z: Tensor) -> Tensor:
        distances = torch.cdist(z.flatten(2).mT if z.dim() > 2 else z.unsqueeze(1), self.codebook.to(z.dtype))
        return distances.argmin(-1).reshape(-1, *self.codes_shape)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.codebook[codes].movedim(-1, codes.dim() - len(self.codes_shape))

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        nearest = self.lookup(codes)
        frequencies = self.counts(codes).double() / max(1, codes.numel())
        entropy = -torch.xlogy(frequencies, frequencies).sum()
        return Quantized(z + (nearest - z).detach(), codes, (z - nearest).square().flatten(1).sum(1), entropy.exp())


class LinearGaussian(LatentVariableModel):
    """z ~ N(0, I), x = Wz + b + sigma e: its log p(x) and its posterior are known."""

    def log_density(self, x: Tensor) -> Tensor:
        """log N(x; b, WWᵀ + sigma² I), (B,)."""
        W, b, sigma = self._parameters_of_x()
        covariance = W @ W.mT + sigma**2 * torch.eye(len(W), dtype=W.dtype)
        density: Distribution = MultivariateNormal(b, covariance)
        log_p: Tensor = density.log_prob(x.flatten(1).to(W.dtype))
        return log_p

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, D) and covariance (D, D) of p(z|x)."""
        W, b, sigma = self._parameters_of_x()
        covariance = torch.linalg.inv(torch.eye(W.shape[1], dtype=W.dtype) + W.mT @ W / sigma**2)
        return (x.flatten(1).to(W.dtype) - b) @ W @ covariance / sigma**2, covariance

    @torch.no_grad()
    def make_exact(self) -> None:
        """Makes q(z|x) the posterior, which is diagonal since the decoder's columns are made orthogonal."""
        assert isinstance(self.decoder, LinearDecoder)
        weight = self.decoder.mean.weight
        weight.copy_(torch.linalg.qr(weight)[0])
        self._take_posterior()

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """The most likely W and b for examples x (N, *data_shape) at this sigma, and q(z|x) the posterior.

        Probabilistic principal component analysis (Tipping & Bishop, 1999) https://doi.org/10.1111/1467-9868.00196
        """
        assert isinstance(self.decoder, LinearDecoder)
        rows = x.flatten(1).double()
        mean, D = rows.mean(0), self.decoder.mean.weight.shape[1]
        values, vectors = torch.linalg.eigh((rows - mean).mT @ (rows - mean) / len(rows))
        scale = (values[-D:] - self.decoder.sigma**2).clamp(min=1e-4).sqrt()
        self.decoder.mean.weight.copy_(vectors[:, -D:] * scale)
        self.decoder.mean.bias.copy_(mean)
        self._take_posterior()

    @torch.no_grad()
    def shift(self, deviations: float) -> None:
        """Moves the mean of q(z|x) by so many of its standard deviations."""
        assert isinstance(self.encoder, LinearEncoder)
        self.encoder.mean.bias.add_(deviations * self.encoder.log_sigma.exp())

    def _take_posterior(self) -> None:
        """Makes q(z|x) the posterior, for a decoder with orthogonal columns."""
        assert isinstance(self.encoder, LinearEncoder)
        _, covariance = self.posterior(torch.zeros(1, *self.data_shape))
        W, b, sigma = self._parameters_of_x()
        self.encoder.mean.weight.copy_((W @ covariance / sigma**2).mT)
        self.encoder.mean.bias.copy_(-(b @ W @ covariance / sigma**2))
        self.encoder.log_sigma.copy_(covariance.diagonal().log() / 2)

    def _parameters_of_x(self) -> tuple[Tensor, Tensor, float]:
        assert isinstance(self.decoder, LinearDecoder)
        return self.decoder.mean.weight.double(), self.decoder.mean.bias.double(), self.decoder.sigma


class Echo(GenerativeModel):
    """Given a batch, it draws the pictures of that batch: what a model of pictures given captions is at best."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)

    def given(self, batch: Batch) -> GenerativeModel:
        return Echoed(batch["image"])

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *self.data_shape)


class Echoed(GenerativeModel):
    """The pictures x (N, *data_shape), in turn."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.data_shape = x, tuple(x.shape[1:])

    def draw(self, n: int) -> Tensor:
        return self.x[torch.arange(n) % len(self.x)]


class NegativeELBO(Loss):
    """-E_q[log p(x|z)] + KL(q || p)."""

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        q = model.encoder(batch["image"])
        distortion = -model.decoder(q.rsample()).log_prob(batch["image"])
        rate = kl_divergence(q, model.prior().expand(q.batch_shape))
        return LossOutput((distortion + rate).mean(), {})


class Pixels(Extractor):
    """The pixels themselves."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class ReferencePlugin(ZooHooks):
    """Offers the kit's own parts, in a host of the kit's alone."""

    @hookimpl
    def zoo_encoders(self) -> Iterator[EncoderSpec | PosteriorSpec]:
        emits = ("vector[real]", "grid[real]")
        yield EncoderSpec(name="linear_encoder", target=_here("LinearEncoder"), summary="Linear.", emits=emits)
        yield PosteriorSpec(name="gaussian_posterior", target=_here("GaussianPosterior"), summary="Gaussian.")

    @hookimpl
    def zoo_decoders(self) -> Iterator[DecoderSpec | LikelihoodSpec]:
        accepts = ("vector[real]", "grid[real]")
        yield DecoderSpec(name="linear_decoder", target=_here("LinearDecoder"), summary="Linear.", accepts=accepts)
        yield LikelihoodSpec(name="gaussian_likelihood", target=_here("GaussianLikelihood"), summary="Gaussian.")

    @hookimpl
    def zoo_priors(self) -> Iterator[PriorSpec]:
        accepts = ("vector[real]", "grid[real]")
        yield PriorSpec(name="standard_normal", target=_here("StandardNormal"), summary="N(0, I).", accepts=accepts)
        codes = ("vector[codes]", "grid[codes]")
        yield PriorSpec(name="uniform_codes", target=_here("UniformCodes"), summary="Uniform.", accepts=codes)

    @hookimpl
    def zoo_quantizers(self) -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(name="lattice", target=_here("Lattice"), summary="Five vectors on a line.")

    @hookimpl
    def zoo_models(self) -> Iterator[ModelSpec]:
        yield ModelSpec(
            name="linear_gaussian", target=_here("LinearGaussian"), summary="A linear Gaussian model.",
            density="bound", sampling="parallel", latent="compressed",
        )  # fmt: skip

        yield ModelSpec(
            name="echo", target=_here("Echo"), summary="Draws what it is given.",
            density="none", sampling="parallel", latent="none",
        )  # fmt: skip

    @hookimpl
    def zoo_losses(self) -> Iterator[LossSpec]:
        yield LossSpec(name="negative_elbo", target=_here("NegativeELBO"), summary="-ELBO.", bound=True)

    @hookimpl
    def zoo_extractors(self) -> Iterator[ExtractorSpec]:
        yield ExtractorSpec(name="pixels", target=_here("Pixels"), summary="Pixels.")


def linear_gaussian(data_shape: tuple[int, ...], latents: int) -> LinearGaussian:
    """z of so many numbers, x = Wz + b + e."""
    encoder = LinearEncoder(data_shape, latents)
    return LinearGaussian(encoder, LinearDecoder(data_shape, (latents,)), StandardNormal((latents,)))


def _here(name: str) -> str:
    return f"{__name__}:{name}"


def _gaussian(mu: Tensor, sigma: Tensor, event_dim: int) -> Distribution:
    return Independent(Normal(mu, sigma, validate_args=False), event_dim, validate_args=False)
