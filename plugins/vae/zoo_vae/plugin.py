"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, LossSpec, ModelSpec, hookimpl, published


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
    yield ModelSpec(
        name="vamp_vae",
        target="zoo_vae.vamp_vae:VampVAE",
        summary="A VAE whose prior is the mean of q(z|u) over learned pseudo-inputs u.",
        density="bound",
        sampling="parallel",
        latent="compressed",
    )
    yield ModelSpec(
        name="conditional_vae",
        target="zoo_vae.conditional_vae:ConditionalVAE",
        summary="A VAE of the data given a label.",
        density="bound",
        sampling="parallel",
        latent="compressed",
    )
    yield ModelSpec(
        name="hierarchical_vae",
        target="zoo_vae.hierarchical_vae:HierarchicalVAE",
        summary="A VAE with several layers of latents, inferred by a ladder.",
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
    yield LossSpec(
        name="dreg",
        target="zoo_vae.dreg:DReG",
        bound=True,
        summary="The bound of iwae, with an encoder gradient whose noise falls with K.",
    )
    yield LossSpec(
        name="miwae",
        target="zoo_vae.miwae:MIWAE",
        bound=True,
        summary="The mean of M bounds of iwae, of K weights each.",
    )
    yield LossSpec(
        name="beta_tc",
        target="zoo_vae.beta_tc:BetaTC",
        summary="ELBO with the rate in three, total correlation weighted by beta.",
    )
    yield LossSpec(
        name="factor",
        target="zoo_vae.factor:FactorVAE",
        summary="ELBO and gamma times the total correlation, as an adversary tells it.",
    )
    yield LossSpec(
        name="info",
        target="zoo_vae.info:InfoVAE",
        summary="ELBO with the rate weighed apart from MMD(q(z), p(z)); MMD-VAE by default.",
    )
    yield LossSpec(
        name="dip_i", target="zoo_vae.dip_i:DIPI", summary="ELBO, and the posterior means uncorrelated over the data."
    )
    yield LossSpec(
        name="dip_ii", target="zoo_vae.dip_ii:DIPII", summary="ELBO, and the latents uncorrelated over the data."
    )
    yield LossSpec(
        name="capacity",
        target="zoo_vae.capacity:Capacity",
        summary="ELBO with the rate held at a capacity that grows with the step.",
    )
    yield LossSpec(
        name="score_function",
        target="zoo_vae.score_function:ScoreFunction",
        bound=True,
        summary="ELBO for any q(z|x), discrete ones too, by the score function with a baseline.",
    )
    yield LossSpec(
        name="gumbel_softmax",
        target="zoo_vae.gumbel_softmax:GumbelSoftmax",
        summary="ELBO at relaxed draws of discrete latents, at a temperature that falls.",
    )
    yield LossSpec(
        name="straight_through",
        target="zoo_vae.straight_through:StraightThrough",
        bound=True,
        summary="ELBO at draws of discrete latents, with the gradient of relaxed ones.",
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    pins = published("zoo_vae:checkpoints")
    yield CheckpointSpec(
        name="vae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/vae-mnist",
        summary="Convolutional VAE on binarised MNIST, 28x28 grey digits.",
        **pins["vae-mnist"],
    )
    yield CheckpointSpec(
        name="burda-vae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/burda-vae-mnist",
        summary="The one-layer VAE of Burda et al. (2016) on binarised MNIST.",
        **pins["burda-vae-mnist"],
    )
    yield CheckpointSpec(
        name="iwae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/iwae-mnist",
        summary="The one-layer IWAE of Burda et al. (2016), 5 samples, on binarised MNIST.",
        **pins["iwae-mnist"],
    )
    yield CheckpointSpec(
        name="beta-vae-shapes",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/beta-vae-shapes",
        summary="Convolutional beta-VAE, beta 4, on coloured shapes, 32x32.",
        **pins["beta-vae-shapes"],
    )
    yield CheckpointSpec(
        name="beta-vae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/beta-vae-mnist",
        summary="The network of vae-mnist as a beta-VAE, beta 4, on binarised MNIST.",
        **pins["beta-vae-mnist"],
    )
    yield CheckpointSpec(
        name="vamp-vae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/vamp-vae-mnist",
        summary="VAE with a learned prior, a VampPrior of 500 pseudo-inputs, on binarised MNIST.",
        **pins["vamp-vae-mnist"],
    )
    yield CheckpointSpec(
        name="conditional-vae-mnist",
        target="zoo_vae:checkpoints",
        hub="latent-zoo/conditional-vae-mnist",
        summary="Convolutional VAE of binarised MNIST given the digit.",
        **pins["conditional-vae-mnist"],
    )
