"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import ModelSpec, hookimpl


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="realnvp",
        target="zoo_flow.realnvp:RealNVP",
        summary="Affine coupling layers: fast both ways; a model of vectors, or a prior.",
        density="exact",
        sampling="parallel",
        latent="full",
    )
    yield ModelSpec(
        name="maf",
        target="zoo_flow.maf:MAF",
        summary="Masked autoregressive flow: fast densities, draws one value after another.",
        density="exact",
        sampling="sequential",
        latent="full",
    )
