"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import (
    DecoderSpec,
    EncoderSpec,
    LikelihoodSpec,
    LossSpec,
    ModelSpec,
    PosteriorSpec,
    PriorSpec,
    hookimpl,
)

VECTOR = ("vector[real]",)
VECTOR_OR_GRID = ("vector[real]", "grid[real]")
ANY_REAL = ("vector[real]", "grid[real]", "sequence[real]")


@hookimpl
def zoo_encoders() -> Iterator[EncoderSpec | PosteriorSpec]:
    yield EncoderSpec(
        name="linear_encoder", target="zoo_nets.linear:LinearEncoder", emits=VECTOR, summary="One affine map."
    )
    yield EncoderSpec(
        name="mlp_encoder", target="zoo_nets.mlp:MLPEncoder", emits=VECTOR, summary="Fully connected layers."
    )
    yield EncoderSpec(
        name="conv_encoder",
        target="zoo_nets.conv:ConvEncoder",
        emits=VECTOR_OR_GRID,
        summary="Strided convolutions, for images of any size.",
    )
    yield EncoderSpec(
        name="resnet_encoder",
        target="zoo_nets.resnet:ResNetEncoder",
        emits=VECTOR_OR_GRID,
        summary="Strided convolutions with residual blocks, for images of any size.",
    )
    yield PosteriorSpec(
        name="diagonal_gaussian", target="zoo_nets.posteriors:DiagonalGaussian", summary="N(mu, diag sigma^2)."
    )
    yield PosteriorSpec(
        name="dirac", target="zoo_nets.posteriors:DiracPosterior", summary="A point mass: a deterministic encoder."
    )
    yield PosteriorSpec(
        name="one_hot", target="zoo_nets.posteriors:OneHotPosterior", summary="Discrete variables, as one-hot vectors."
    )


@hookimpl
def zoo_decoders() -> Iterator[DecoderSpec | LikelihoodSpec]:
    yield DecoderSpec(
        name="linear_decoder", target="zoo_nets.linear:LinearDecoder", accepts=ANY_REAL, summary="One affine map."
    )
    yield DecoderSpec(
        name="mlp_decoder", target="zoo_nets.mlp:MLPDecoder", accepts=ANY_REAL, summary="Fully connected layers."
    )
    yield DecoderSpec(
        name="conv_decoder",
        target="zoo_nets.conv:ConvDecoder",
        accepts=VECTOR_OR_GRID,
        summary="Transposed convolutions, for images of any size.",
    )
    yield DecoderSpec(
        name="resnet_decoder",
        target="zoo_nets.resnet:ResNetDecoder",
        accepts=VECTOR_OR_GRID,
        summary="Transposed convolutions with residual blocks, for images of any size.",
    )
    yield LikelihoodSpec(
        name="bernoulli", target="zoo_nets.likelihoods:BernoulliLikelihood", summary="Binary pixels, from logits."
    )
    yield LikelihoodSpec(
        name="continuous_bernoulli",
        target="zoo_nets.likelihoods:ContinuousBernoulliLikelihood",
        summary="The Bernoulli's formula made a density of grey values in [0, 1].",
    )
    yield LikelihoodSpec(
        name="gaussian", target="zoo_nets.likelihoods:GaussianLikelihood", summary="N(mu, sigma^2) with a fixed sigma."
    )
    yield LikelihoodSpec(
        name="gaussian_learned_sigma",
        target="zoo_nets.likelihoods:LearnedGaussianLikelihood",
        summary="N(mu, sigma^2) with one learned sigma for all pixels.",
    )
    yield LikelihoodSpec(
        name="gaussian_pixel_sigma",
        target="zoo_nets.likelihoods:PixelGaussianLikelihood",
        summary="N(mu, sigma^2) with a sigma for each pixel, told by the decoder.",
    )
    yield LikelihoodSpec(
        name="categorical",
        target="zoo_nets.likelihoods:CategoricalLikelihood",
        summary="Any distribution over the 256 levels of each pixel.",
    )
    yield LikelihoodSpec(
        name="discretized_logistic_mixture",
        target="zoo_nets.likelihoods:LogisticMixtureLikelihood",
        summary="A mixture of logistics integrated over 256 levels.",
    )
    yield LikelihoodSpec(
        name="logit_laplace",
        target="zoo_nets.likelihoods:LogitLaplaceLikelihood",
        summary="Laplace on the logit of pixels that are mapped into [0.1, 0.9].",
    )


@hookimpl
def zoo_losses() -> Iterator[LossSpec]:
    yield LossSpec(
        name="nll", target="zoo_nets.nll:NLL", bound=True, summary="-log p(x), for any model with a density."
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="variational_dequantization",
        target="zoo_nets.variational_dequantization:VariationalDequantization",
        summary="Any density as a model of 256 levels, with learned noise between them.",
        density="bound",
        sampling="parallel",
        latent="full",
    )


@hookimpl
def zoo_priors() -> Iterator[PriorSpec]:
    yield PriorSpec(
        name="standard_normal", target="zoo_nets.priors:StandardNormal", accepts=ANY_REAL, summary="N(0, I)."
    )
    yield PriorSpec(
        name="gaussian_mixture",
        target="zoo_nets.priors:GaussianMixture",
        accepts=ANY_REAL,
        summary="A learned mixture of diagonal Gaussians.",
    )
    yield PriorSpec(
        name="uniform_one_hot",
        target="zoo_nets.priors:UniformOneHot",
        accepts=VECTOR_OR_GRID,
        summary="Discrete variables, as one-hot vectors, of equally likely classes.",
    )
