"""What is asked of an extractor of features."""

import copy
import random
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core.errors import ZooError
from zoo_core.testing.checks import check, require, require_equal, unfit
from zoo_core.testing.subjects import Subject, as_json, drawing

ROUNDING = 1e-4  # of features of one image, alone and among others, beside the largest


@check("extractor", structural=True)
def features(subject: Subject) -> None:
    """Of images it gives as many rows of features: finite, float32, on the CPU, without a gradient."""
    made = subject.make()
    for n in (1, 2, 5):
        h = made.features(_images(subject, n))
        require(
            isinstance(h, Tensor) and h.dim() == 2 and len(h) == n,
            f"features of {n} images are {_form(h)}, not ({n}, d)",
        )
        require(h.dtype == torch.float32, f"features are {h.dtype}, not float32")
        require(h.isfinite().all(), "features are not finite")
        require(h.device.type == "cpu" and not h.requires_grad, "features must lie on the CPU, without a gradient")


@check("extractor")
def rows_alone(subject: Subject) -> None:
    """The features of an image do not depend on the images beside it."""
    made, images = subject.make(), _images(subject, 5)
    together = made.features(images)
    for i in range(5):
        off = float((made.features(images[i : i + 1].clone())[0] - together[i]).abs().max())
        require(
            off <= ROUNDING * max(1.0, float(together[i].abs().max())),
            f"the features of image {i} of 5 differ by {off:.2g} from those of the same image alone",
        )


@check("extractor")
def bytes_and_floats(subject: Subject) -> None:
    """Images as bytes, and as floats in [0, 1], have the same features; it leaves them as they are."""
    made, images = subject.make(), _images(subject, 3)
    floats = images.float() / 255
    before = floats.clone()
    require_equal(made.features(images), made.features(floats), "of bytes and of floats features differ")
    require_equal(before, floats, "it changes the images")


@check("extractor")
def determinism(subject: Subject) -> None:
    """The same images have the same features, each time and of each extractor of the same config."""
    runs = []
    for other in (1, 2):
        made = subject.make()
        random.seed(other)
        np.random.seed(other)
        with drawing(other):
            runs += [made.features(_images(subject, 3)), made.features(_images(subject, 3))]
    for again in runs[1:]:
        require_equal(runs[0], again, "features of the same images differ")


@check("extractor")
def images_told_apart(subject: Subject) -> None:
    """Different images have different features."""
    h = subject.make().features(_images(subject, 4))
    alike = (h.unsqueeze(0) == h.unsqueeze(1)).all(2).sum()
    require(int(alike) == len(h), "different images have the same features")


@check("extractor")
def identity(subject: Subject) -> None:
    """Its identity can be written to JSON, and using it changes neither that nor its config."""
    made, other = subject.make(), subject.make()
    before = _known_by(made)
    made.features(_images(subject, 2))
    require(_known_by(made) == before, f"its identity changes when it is used: {before}, then {_known_by(made)}")
    require(_known_by(other) == before, f"two of the same config differ: {before} and {_known_by(other)}")
    require(isinstance(made.label, str) and made.label, "its label is empty: values are named by it")
    require(
        made.weights or not any(True for _ in made.parameters()),
        "it has weights but does not tell their hash: features of other weights would count as the same",
    )


@check("extractor")
def copies_in_use(subject: Subject) -> None:
    """Copied after it was used, also to another process, it gives the same features."""
    made, images = subject.make(), _images(subject, 2)
    h = made.features(images)
    sent = ForkingPickler.loads(ForkingPickler.dumps(made))
    for how, copied in (("copied", copy.deepcopy(made)), ("sent to another process", sent)):
        require_equal(h, copied.features(images.clone()), f"{how} after use, it gives other features")


@check("extractor", when=lambda spec: spec.data_shape is not None)
def other_shapes(subject: Subject) -> None:
    """Images of another shape than the one that it was made for have features, or are refused in a sentence."""
    channels, *size = subject.data_shape
    images = torch.zeros((2, channels, *(side + 2 for side in size)), dtype=torch.uint8)
    try:
        h = subject.make().features(images)
    except ZooError as error:
        require(len(str(error).split()) > 3, f"of images of another shape it says no more than {str(error)!r}")
        return
    require(h.dim() == 2 and len(h) == 2, f"features of 2 images of another shape are {_form(h)}")


def _images(subject: Subject, n: int) -> Tensor:
    """Bytes (n, C, H, W)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *subject.data_shape), generator=generator, dtype=torch.uint8)


def _known_by(made: Any) -> Any:
    try:
        return as_json({"identity": made.identity, "label": made.label, "arguments": made.arguments})
    except TypeError as error:
        unfit(f"its identity cannot be written to JSON: {error}")


def _form(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
