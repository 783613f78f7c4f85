"""Name → batches: embedded sets, local folders, the Hugging Face Hub, held or streamed; binarise, dequantise, resize.

>>> from zoo_core.data import load
>>> digits = load("digits", "test")
>>> digits.data_shape, len(digits)
((1, 8, 8), 360)

Names are imported on first use, so that this module costs nothing by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.data.cache import cached as cached
    from zoo_core.data.dataset import Dataset as Dataset
    from zoo_core.data.dataset import InMemory as InMemory
    from zoo_core.data.preprocessing import Preprocessing as Preprocessing
    from zoo_core.data.resolve import load as load
    from zoo_core.data.shapes_captions import WORDINGS as WORDINGS
    from zoo_core.data.shapes_captions import captions as captions
    from zoo_core.data.shapes_rendering import BACKGROUNDS as BACKGROUNDS
    from zoo_core.data.shapes_rendering import MAX_SHIFT as MAX_SHIFT
    from zoo_core.data.shapes_rendering import PLACES as PLACES
    from zoo_core.data.shapes_rendering import RGB as RGB
    from zoo_core.data.shapes_rendering import SHAPES as SHAPES
    from zoo_core.data.shapes_rendering import SIZES as SIZES
    from zoo_core.data.shapes_rendering import render as render

_HOMES = {
    "Dataset": "dataset",
    "InMemory": "dataset",
    "Preprocessing": "preprocessing",
    "cached": "cache",
    "load": "resolve",
    # Of the shapes data set, for whoever reads its pictures and sentences.
    **dict.fromkeys(("BACKGROUNDS", "MAX_SHIFT", "PLACES", "RGB", "SHAPES", "SIZES", "render"), "shapes_rendering"),
    **dict.fromkeys(("WORDINGS", "captions"), "shapes_captions"),
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
