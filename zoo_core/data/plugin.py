"""What the core itself offers: three data sets that need no download, and one made of others."""

from collections.abc import Iterator

from zoo_core.hookspecs import hookimpl
from zoo_core.specs import DatasetSpec


@hookimpl
def zoo_datasets() -> Iterator[DatasetSpec]:
    yield DatasetSpec(
        name="digits",
        target="zoo_core.data.embedded:digits",
        summary="1,797 handwritten digits, grey 8x8, labelled.",
        splits=("train", "test"),
    )
    yield DatasetSpec(
        name="shapes",
        target="zoo_core.data.shapes:Shapes",
        summary="Coloured shapes with captions, drawn on demand; novel: unseen combinations.",
        splits=("train", "test", "novel"),
    )
    yield DatasetSpec(
        name="emoji",
        target="zoo_core.data.emoji:emoji",
        summary="1,377 colour emoji with their names, drawn from an installed font; test: variations.",
        splits=("train", "test"),
    )
    yield DatasetSpec(
        name="latents",
        target="zoo_core.encoded:latents",
        summary="What a model's encoder makes of its data: z ~ q(z|x), for priors.",
        splits=("train", "test"),
    )
