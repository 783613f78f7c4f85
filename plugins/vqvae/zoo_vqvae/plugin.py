"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, LossSpec, MetricSpec, ModelSpec, PriorSpec, QuantizerSpec, hookimpl, published

VECTOR_OR_GRID = ("vector[real]", "grid[real]")


@hookimpl
def zoo_quantizers() -> Iterator[QuantizerSpec]:
    yield QuantizerSpec(
        name="ema",
        target="zoo_vqvae.ema:EMA",
        accepts=VECTOR_OR_GRID,
        summary="A codebook of running means, started by k-means; unused codes are revived.",
    )
    yield QuantizerSpec(
        name="nearest",
        target="zoo_vqvae.nearest:Nearest",
        accepts=VECTOR_OR_GRID,
        summary="A codebook that is trained by gradients.",
    )
    yield QuantizerSpec(
        name="simvq",
        target="zoo_vqvae.simvq:SimVQ",
        accepts=VECTOR_OR_GRID,
        summary="A frozen random codebook behind one learned linear map.",
    )
    yield QuantizerSpec(
        name="fsq",
        target="zoo_vqvae.fsq:FSQ",
        accepts=VECTOR_OR_GRID,
        summary="Each channel rounded to one of a few levels; no codebook.",
    )
    yield QuantizerSpec(
        name="gumbel",
        target="zoo_vqvae.gumbel:Gumbel",
        accepts=VECTOR_OR_GRID,
        summary="A categorical over the channels of each position, relaxed while training: the discrete VAE.",
    )
    yield QuantizerSpec(
        name="residual",
        target="zoo_vqvae.residual:Residual",
        accepts=VECTOR_OR_GRID,
        summary="A stack of quantizers, each of what those before it left.",
    )


@hookimpl
def zoo_priors() -> Iterator[PriorSpec]:
    yield PriorSpec(
        name="uniform_codes",
        target="zoo_vqvae.uniform_codes:UniformCodes",
        accepts=("vector[codes]", "grid[codes]", "sequence[codes]"),
        summary="Every code equally likely at every position.",
    )
    yield PriorSpec(
        name="independent_codes",
        target="zoo_vqvae.independent_codes:IndependentCodes",
        accepts=("vector[codes]", "grid[codes]", "sequence[codes]"),
        summary="Learned frequencies of the codes at every position, to be fitted to those of data.",
    )


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="vqvae",
        target="zoo_vqvae.vqvae:VQVAE",
        summary="Vector-quantised autoencoder: any encoder, quantizer, decoder, and prior over codes.",
        density="bound",
        sampling="parallel",
        latent="compressed",
    )


@hookimpl
def zoo_losses() -> Iterator[LossSpec]:
    yield LossSpec(name="vq", target="zoo_vqvae.vq:VQ", summary="-log p(x|z_q), and what the quantizer asks for.")
    yield LossSpec(
        name="dvae",
        target="zoo_vqvae.dvae:DVAE",
        summary="-log p(x|z_q) at relaxed codes, and beta KL to uniform ones; both by schedule.",
    )


@hookimpl
def zoo_metrics() -> Iterator[MetricSpec]:
    yield MetricSpec(
        name="codebook",
        target="zoo_vqvae.codebook_use:CodebookUse",
        summary="Perplexity of the codes over all data, and the share of the codebook that they use.",
        better="higher",
        unit="codes",
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    pins = published("zoo_vqvae:checkpoints")
    yield CheckpointSpec(
        name="vqvae-mnist",
        target="zoo_vqvae:checkpoints",
        hub="latent-zoo/vqvae-mnist",
        summary="VQ-VAE of binarised MNIST, 28x28 grey digits as 7x7 codes of 128.",
        **pins["vqvae-mnist"],
    )
    yield CheckpointSpec(
        name="vqvae-cifar10",
        target="zoo_vqvae:checkpoints",
        hub="latent-zoo/vqvae-cifar10",
        summary="VQ-VAE of CIFAR-10, 32x32 colour photographs as 8x8 codes of 512.",
        **pins["vqvae-cifar10"],
    )
    yield CheckpointSpec(
        name="dvae-shapes",
        target="zoo_vqvae:checkpoints",
        hub="latent-zoo/dvae-shapes",
        summary="Discrete VAE of coloured shapes, 32x32 pictures as 8x8 codes of 256.",
        **pins["dvae-shapes"],
    )
    yield CheckpointSpec(
        name="vqvae-emoji",
        target="zoo_vqvae:checkpoints",
        hub="latent-zoo/vqvae-emoji",
        summary="VQ-VAE of colour emoji, 32x32 pictures as 8x8 codes of 1,024.",
        **pins["vqvae-emoji"],
    )
