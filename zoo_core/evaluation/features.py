"""Features of the data, with which draws of a model are compared: made once and kept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_core.components import device_of
from zoo_core.config import build
from zoo_core.data import Dataset, Preprocessing
from zoo_core.data.cache import find, store
from zoo_core.errors import ConfigError
from zoo_core.evaluation.sharing import gathered, in_turns, position, share, to_device
from zoo_core.host import default_host
from zoo_core.metrics import Extractor, Metric, SampleMetric
from zoo_core.specs import ExtractorSpec

ANY = "pixels"


def originals(stored: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """Images as stored, in the size and the colours of a model's, in [0, 1] and without noise."""
    plain = Preprocessing(image_size=preprocessing.image_size, channels=preprocessing.channels)
    return dict(plain(dict(stored)))


def settle_extractors(
    metrics: Sequence[Metric], extractor: Extractor | None, shape: Sequence[int], device: torch.device
) -> None:
    """Gives metrics that name no extractor this one, or the default; equal ones become one, which works for all."""
    known: dict[str, Extractor] = {}
    for metric in metrics:
        if isinstance(metric, SampleMetric):
            own = metric.extractor or extractor or build(default_extractor(shape), "extractor")
            metric.extractor = known.setdefault(json.dumps(own.identity, default=repr), own).to(device)


def default_extractor(shape: Sequence[int]) -> str:
    """The full name of the extractor that is registered for images of that shape, or else of pixels.

    Raises:
        ConfigError: there is neither.
    """
    offered = default_host().registrations("extractor")
    made_for = [r for r in offered if isinstance(r.spec, ExtractorSpec) and r.spec.data_shape == tuple(shape)]
    chosen = made_for or [r for r in offered if r.spec.name == ANY]
    if not chosen:
        raise ConfigError("extractor: name one; no installed plugin offers a default (zoo-metrics does)")
    return chosen[0].full_name


def data_features(
    extractor: Extractor, dataset: Dataset, preprocessing: Preprocessing, examples: int, batch: int
) -> Tensor:
    """Features of the first examples, (N, d), in the first of all processes; the others help and are given none.

    They are kept in the data cache, under the fingerprint of the data and the identity of the extractor.
    """
    key = _key(extractor, dataset, preprocessing, examples)
    found = _known(key)
    if found is not None:
        return found
    own = [
        extractor.features(originals(to_device(dataset.batch(i), device_of(extractor)), preprocessing)["image"])
        for _, i in share(examples, batch)
        if len(i)
    ]
    chunks = in_turns(gathered(own))
    if position()[0]:
        return torch.empty(0)
    features = store(key, {"features": torch.cat(chunks)}).columns["features"]
    assert isinstance(features, Tensor)  # as it was stored
    return features


def _known(key: str) -> Tensor | None:
    """What the first process finds in its cache; an empty tensor elsewhere, if it does."""
    rank, world = position()
    entry = find(key) if rank == 0 else None
    told = [entry is not None]
    if world > 1:
        torch.distributed.broadcast_object_list(told)
    if not told[0]:
        return None
    features = entry.columns["features"] if entry else torch.empty(0)
    assert isinstance(features, Tensor)  # as it was stored
    return features


def _key(extractor: Extractor, dataset: Dataset, preprocessing: Preprocessing, examples: int) -> str:
    told = {
        "data": dataset.fingerprint,
        "shape": preprocessing.data_shape(dataset.data_shape),
        "examples": examples,
        "extractor": extractor.identity,
        "torch": torch.__version__,
    }
    return "features-" + hashlib.sha256(json.dumps(told, sort_keys=True, default=repr).encode()).hexdigest()[:32]
