"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import ModelSpec, hookimpl


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
        summary="Mixture of Gaussians by EM, with four forms of covariance.",
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
