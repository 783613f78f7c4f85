"""Whether pictures of coloured shapes show what their sentences say."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, DataError
from zoo_core.data import WORDINGS, captions
from zoo_metrics.averages import AverageMetric
from zoo_metrics.shape_reading import read_scene

ATTRIBUTES = ("colour", "shape", "size", "position")
TRUTH = ("count", *(f"{name}_{k}" for k in (1, 2) for name in ATTRIBUTES), "relation")


class ShapeAttributes(AverageMetric):
    """1[the caption is true of x], x ~ p(x|caption): one sample for each example, read by ``read_scene``.

    For data `shapes` and the view of a model that ``given`` makes of a batch. A caption is true of a picture if it is
    one of all sentences that the grammar of `shapes` has for the scene that was read: what it leaves out, sizes or
    places, may be any, and either object may come first. Reports its mean, ``caption_accuracy``, over all examples;
    ``caption_accuracy_one`` and ``caption_accuracy_two``, over those with one and with two objects; and of the parts

        count_accuracy      1[as many objects as in the example], over all examples
        colour_accuracy     the part of the example's objects that are of their colour, over all examples
        shape_accuracy      the part that are of their shape, over all examples
        size_accuracy       the part, of the objects whose size is said, that are of it, where one is said
        position_accuracy   the part, of the objects whose place is said, that are in it, where one is said
        relation_accuracy   1[two objects lie to each other as in the example], over those with two objects:
                            sentences that do not say it say their places, which do

    A read object stands for that one of the example with which, both together, more is right of what is said; if
    either will do, with which the relation is. What is missing or unreadable is wrong. A part without examples is not
    reported, so data of single objects have no ``relation_accuracy``.

    Raises:
        ConfigError: the data have no such columns, or the model's are not pictures (3, S, S) with S of at least 16.
        DataError: a caption is not one that the grammar has for its example.
    """

    draws: ClassVar[bool] = True

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        truth = _truth(batch)
        _require_pictures(model)
        said: list[str] = batch["caption"]
        mentioned = _mentioned(truth, said)
        scene = read_scene(batch["sample"])
        whole = _holds(scene, said).double()
        two = truth["count"] == 2
        self.add_where(torch.ones_like(two), caption_accuracy=whole)
        self.add_where(~two, caption_accuracy_one=whole)
        self.add_where(two, caption_accuracy_two=whole)
        self.add_where(torch.ones_like(two), count_accuracy=(scene["count"] == truth["count"]).double())
        right, relation = _compared(scene, truth, mentioned)
        self.add_where(two, relation_accuracy=relation.double())
        for name, r, m in zip(ATTRIBUTES, right.unbind(2), mentioned.unbind(2), strict=True):
            self.add_where(m.any(1), **{f"{name}_accuracy": r.sum(1) / m.sum(1)})

    def add_where(self, chosen: Tensor, **values: Tensor) -> None:
        """``add`` of the chosen examples' values, unless there are none."""
        if chosen.any():
            self.add(**{name: value[chosen] for name, value in values.items()})


def caption_holds(images: Tensor, captions: Sequence[str]) -> Tensor:
    """Whether each picture of (B, 3, S, S) in [0, 1] shows what its sentence, one of B, says: bool (B,).

    A sentence holds if it is one of those that the grammar of `shapes` has for the scene that ``read_scene`` finds. It
    does not hold of a picture that cannot be read.

    Raises:
        DataError: these are no such pictures, or not as many sentences.
    """
    if len(images) != len(captions):
        raise DataError(f"every picture needs one sentence; got {len(images)} and {len(captions)}")
    return _holds(read_scene(images), captions)


def _holds(scene: Mapping[str, Tensor], said: Sequence[str]) -> Tensor:
    whole = torch.stack([scene[f"{name}_1"] for name in ATTRIBUTES]).amin(0) >= 0
    pair = torch.stack([scene[f"{name}_2"] for name in ATTRIBUTES]).amin(0) >= 0
    readable = (whole & (scene["count"] == 1)) | (whole & pair & (scene["count"] == 2))
    holds = torch.zeros_like(readable)
    kept = readable.nonzero().squeeze(1)
    holds[kept] = _wordings({n: column[kept] for n, column in scene.items()}, [said[i] for i in kept]).any(1)
    return holds


def _wordings(factors: Mapping[str, Tensor], said: Sequence[str]) -> Tensor:
    """In which wordings the caption of each scene (B,) is what is said: bool (B, WORDINGS)."""
    every = {name: column.repeat_interleave(WORDINGS) for name, column in factors.items()}
    told = iter(captions(every, torch.arange(WORDINGS).repeat(len(said))))
    same = [[next(told) == sentence for _ in range(WORDINGS)] for sentence in said]
    return torch.tensor(same, dtype=torch.bool).view(len(said), WORDINGS)


def _mentioned(truth: Mapping[str, Tensor], said: Sequence[str]) -> Tensor:
    """Which attributes of which objects the captions say, bool (B, 2, 4): of sizes and places, those that change them.

    Raises:
        DataError: a caption is not one of its scene.
    """
    fits = _wordings(truth, said)
    if not fits.any(1).all():
        wrong = said[int((~fits.any(1)).nonzero()[0, 0])]
        raise DataError(
            f"metric 'shape_attributes' needs captions in the words of the data set 'shapes'; {wrong!r} is none of them"
        )
    wording = fits.int().argmax(1)
    present = torch.stack([truth["shape_1"], truth["shape_2"]], 1) >= 0
    changed = [_changed(truth, wording, said, f"{name}_{k}") for k in (1, 2) for name in ("size", "position")]
    return torch.cat([present.unsqueeze(2).expand(-1, -1, 2), torch.stack(changed, 1).view(-1, 2, 2)], 2)


def _changed(truth: Mapping[str, Tensor], wording: Tensor, said: Sequence[str], name: str) -> Tensor:
    """Whether another value of a factor gives another sentence, bool (B,)."""
    other = torch.where(truth[name] > 0, 0, 1).masked_fill(truth[name] < 0, -1)
    told = captions({**truth, name: other}, wording)
    return torch.tensor([a != b for a, b in zip(told, said, strict=True)], dtype=torch.bool)


def _compared(scene: Mapping[str, Tensor], truth: Mapping[str, Tensor], mentioned: Tensor) -> tuple[Tensor, Tensor]:
    """What is mentioned and right of the example's objects, (B, 2, 4), and whether their relation is, (B,)."""
    found, meant = _objects(scene), _objects(truth)
    straight, crossed = (found == meant) & mentioned, (found.flip(1) == meant) & mentioned
    # Neighbours among the relations are each other's inverse.
    relation, inverse = scene["relation"] == truth["relation"], (scene["relation"] ^ 1) == truth["relation"]
    turned = 2 * crossed.sum((1, 2)) + inverse > 2 * straight.sum((1, 2)) + relation
    return torch.where(turned[:, None, None], crossed, straight), torch.where(turned, inverse, relation)


def _objects(factors: Mapping[str, Tensor]) -> Tensor:
    """(B, 2, 4)"""
    return torch.stack([torch.stack([factors[f"{name}_{k}"] for name in ATTRIBUTES], 1) for k in (1, 2)], 1)


def _truth(batch: Batch) -> dict[str, Tensor]:
    missing = [name for name in ("caption", *TRUTH) if name not in batch]
    if missing:
        raise ConfigError(
            f"metric 'shape_attributes' measures on the data set 'shapes', or one with its columns; these data have no "
            f"{missing[0]!r}"
        )
    return {name: batch[name].cpu() for name in TRUTH}


def _require_pictures(model: Any) -> None:
    shape = tuple(model.data_shape)
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2] or shape[1] < 16:
        raise ConfigError(
            f"metric 'shape_attributes' needs a model of colour pictures (3, S, S), S at least 16; that of "
            f"{type(model).__name__} are {shape}"
        )
