"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, PosteriorSpec, PriorSpec, hookimpl


@hookimpl
def zoo_encoders() -> Iterator[PosteriorSpec]:
    yield PosteriorSpec(
        name="power_spherical",
        target="zoo_example.power_spherical:PowerSphericalPosterior",
        summary="A direction and how sure it is: latents on a sphere.",
    )


@hookimpl
def zoo_priors() -> Iterator[PriorSpec]:
    yield PriorSpec(
        name="uniform_sphere",
        target="zoo_example.uniform_sphere:UniformSphere",
        accepts=("vector[real]", "grid[real]"),
        summary="Every direction alike.",
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    yield CheckpointSpec(
        name="spherical-vae-mnist",
        target="zoo_example:checkpoints",
        hub="latent-zoo/spherical-vae-mnist",
        summary="VAE with latents on the sphere S^5, on binarised MNIST.",
    )
