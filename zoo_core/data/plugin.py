"""What the core itself offers: two data sets that need no download."""

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
