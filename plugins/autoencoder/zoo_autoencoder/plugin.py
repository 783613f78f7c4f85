"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, LossSpec, ModelSpec, PosteriorSpec, hookimpl, published


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="autoencoder",
        target="zoo_autoencoder.autoencoder:Autoencoder",
        summary="Autoencoder: any encoder and decoder; the prior serves sampling alone.",
        density="none",
        sampling="parallel",
        latent="compressed",
    )
    yield ModelSpec(
        name="tied_autoencoder",
        target="zoo_autoencoder.tied_autoencoder:TiedAutoencoder",
        summary="One linear or sigmoid layer, decoded by its own transpose.",
        density="none",
        sampling="parallel",
        latent="compressed",
    )


@hookimpl
def zoo_encoders() -> Iterator[PosteriorSpec]:
    yield PosteriorSpec(
        name="sigmoid", target="zoo_autoencoder.sigmoid:Sigmoid", summary="A point mass in [0, 1]: sigmoid units."
    )


@hookimpl
def zoo_losses() -> Iterator[LossSpec]:
    yield LossSpec(
        name="reconstruction",
        target="zoo_autoencoder.reconstruction:Reconstruction",
        summary="-log p(x|z) at the mean of q(z|x).",
    )
    yield LossSpec(
        name="denoising",
        target="zoo_autoencoder.denoising:GaussianDenoising",
        summary="-log p(x|z), z encoding x with Gaussian noise.",
    )
    yield LossSpec(
        name="denoising_masking",
        target="zoo_autoencoder.masking:MaskingDenoising",
        summary="-log p(x|z), z encoding x with a share of its values set to 0.",
    )
    yield LossSpec(
        name="denoising_salt_and_pepper",
        target="zoo_autoencoder.salt_and_pepper:SaltAndPepperDenoising",
        summary="-log p(x|z), z encoding x with a share of its values set to 0 or 1.",
    )
    yield LossSpec(
        name="contractive",
        target="zoo_autoencoder.contractive:Contractive",
        summary="-log p(x|z) + weight ||J_f(x)||_F^2, exactly.",
    )
    yield LossSpec(
        name="contractive_hutchinson",
        target="zoo_autoencoder.contractive_hutchinson:HutchinsonContractive",
        summary="-log p(x|z) + weight ||J_f(x)||_F^2, by random projections.",
    )
    yield LossSpec(
        name="sparse_l1", target="zoo_autoencoder.sparse_l1:SparseL1", summary="-log p(x|z) + weight ||z||_1."
    )
    yield LossSpec(
        name="sparse_kl",
        target="zoo_autoencoder.sparse_kl:SparseKL",
        summary="-log p(x|z) + weight Σ_k KL(p || mean activity of unit k).",
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    pins = published("zoo_autoencoder:checkpoints")
    yield CheckpointSpec(
        name="ae-mnist",
        target="zoo_autoencoder:checkpoints",
        hub="latent-zoo/ae-mnist",
        summary="Convolutional autoencoder on binarised MNIST, 32 latents, with a mixture fitted to its codes.",
        **pins["ae-mnist"],
    )
    yield CheckpointSpec(
        name="dae-mnist",
        target="zoo_autoencoder:checkpoints",
        hub="latent-zoo/dae-mnist",
        summary="Denoising autoencoder on binarised MNIST, 32 latents, with a mixture fitted to its codes.",
        **pins["dae-mnist"],
    )
    yield CheckpointSpec(
        name="cae-mnist",
        target="zoo_autoencoder:checkpoints",
        hub="latent-zoo/cae-mnist",
        summary="Contractive autoencoder with tied weights on binarised MNIST, 900 sigmoid units.",
        **pins["cae-mnist"],
    )
    yield CheckpointSpec(
        name="sae-mnist",
        target="zoo_autoencoder:checkpoints",
        hub="latent-zoo/sae-mnist",
        summary="Sparse autoencoder on binarised MNIST, 256 sigmoid units, each active one time in ten.",
        **pins["sae-mnist"],
    )
