"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, ModelSpec, hookimpl, published


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="ppca",
        target="zoo_classical.ppca:PPCA",
        summary="Probabilistic PCA: x = W z + mu + noise, in closed form.",
        density="exact",
        sampling="parallel",
        latent="compressed",
    )
    yield ModelSpec(
        name="ppca_em",
        target="zoo_classical.ppca_em:PPCAEM",
        summary="Probabilistic PCA by EM: no D x D matrix.",
        density="exact",
        sampling="parallel",
        latent="compressed",
    )
    yield ModelSpec(
        name="gmm",
        target="zoo_classical.gmm:GMM",
        summary="Mixture of Gaussians by EM, with five forms of covariance.",
        density="exact",
        sampling="parallel",
        latent="compressed",
    )
    yield ModelSpec(
        name="kmeans",
        target="zoo_classical.kmeans:KMeans",
        summary="k-means: each example becomes the nearest of K centres.",
        density="none",
        sampling="parallel",
        latent="compressed",
    )
    yield ModelSpec(
        name="chow_liu",
        target="zoo_classical.chow_liu:ChowLiu",
        summary="Chow-Liu tree: each binary pixel depends on one other.",
        density="exact",
        sampling="sequential",
        latent="none",
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    pins = published("zoo_classical:checkpoints")
    yield CheckpointSpec(
        name="ppca-mnist",
        target="zoo_classical:checkpoints",
        hub="latent-zoo/ppca-mnist",
        summary="Probabilistic PCA on dequantised MNIST, 28x28 grey digits.",
        **pins["ppca-mnist"],
    )
    yield CheckpointSpec(
        name="gmm-mnist",
        target="zoo_classical:checkpoints",
        hub="latent-zoo/gmm-mnist",
        summary="Mixture of 40 factor analysers on dequantised MNIST, 28x28 grey digits.",
        **pins["gmm-mnist"],
    )
