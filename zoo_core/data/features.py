"""Which column of a Hugging Face data set is the image, the label, the caption."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from zoo_core.errors import DataError

CANONICAL = ("image", "label", "caption")
CAPTIONS = ("caption", "text")

Features = Mapping[str, Any]


def find_columns(source: str, features: Features, chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """The source's name of each canonical column it has.

    The image is the one column of images, whatever its name, or the one called ``image``; the label
    is an integer column called ``label``, else the first column of classes; the caption is a string
    column called ``caption`` or ``text``.

    Args:
        features: the types of the source's columns, by name.
        chosen: canonical names and the columns the user wants under them.

    Raises:
        DataError: there is no image column, more than one, or no column that the user named.
    """
    chosen = _checked(source, features, chosen or {})
    found = {"image": _image(source, features, chosen), **_label(features), **_caption(features)}
    return {name: (found | chosen)[name] for name in CANONICAL if name in found | chosen}


def _checked(source: str, features: Features, chosen: Mapping[str, str]) -> dict[str, str]:
    for name, column in chosen.items():
        if name not in CANONICAL:
            raise DataError(f"columns: {name!r} is none of {', '.join(CANONICAL)}")
        if column not in features:
            raise DataError(f"no column {column!r} in {source}{_suggestion(column, features)}")
    return dict(chosen)


def _image(source: str, features: Features, chosen: Mapping[str, str]) -> str:
    if "image" in chosen:
        return chosen["image"]
    images = _of_type(features, _is_image)
    if "image" in images or len(images) == 1:
        return "image" if "image" in images else images[0]
    problem = f"several image columns ({', '.join(images)})" if images else "no image column"
    raise DataError(
        f"{source} has {problem}; say which is the image: columns={{'image': …}}, one of {', '.join(features)}"
    )


def _label(features: Features) -> dict[str, str]:
    classes = _of_type(features, _is_class)
    if "label" in classes or "label" in _of_type(features, _is_integer):
        return {"label": "label"}
    return {"label": classes[0]} if classes else {}


def _caption(features: Features) -> dict[str, str]:
    texts = _of_type(features, _is_text)
    return next(({"caption": name} for name in CAPTIONS if name in texts), {})


def _of_type(features: Features, test: Callable[[Any], bool]) -> list[str]:
    return [name for name, feature in features.items() if test(feature)]


def _is_image(feature: Any) -> bool:
    # A file written without Hugging Face's metadata shows an image as the struct that stores it.
    return type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and {"bytes", "path"} <= set(feature))


def _is_class(feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _is_integer(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint"))


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", "") in ("string", "large_string")


def _suggestion(name: str, names: Features) -> str:
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"
