"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, LossSpec, ModelSpec, hookimpl


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="vae",
        target="zoo_vae.vae:VAE",
        summary="Variational autoencoder: any encoder, decoder and prior.",
        density="bound",
        sampling="parallel",
        latent="compressed",
    )


@hookimpl
def zoo_losses() -> Iterator[LossSpec]:
    yield LossSpec(
        name="elbo",
        target="zoo_vae.elbo:ELBO",
        bound=True,
        summary="-E_q[log p(x|z)] + beta KL(q || p), with free bits and a warm-up of beta.",
    )
    yield LossSpec(
        name="iwae", target="zoo_vae.iwae:IWAE", bound=True, summary="-log of the mean of K importance weights."
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    yield CheckpointSpec(
        name="vae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/vae-mnist",
        summary="Convolutional VAE on binarised MNIST, 28x28 grey digits.",
    )
    yield CheckpointSpec(
        name="burda-vae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/burda-vae-mnist",
        summary="The one-layer VAE of Burda et al. (2016) on binarised MNIST.",
    )
