"""Means of values that are at hand all at once."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo_core import Measurement


def mean_of(values: Tensor, about: Mapping[str, Any], unit: str = "", better: str = "") -> Measurement:
    """1/n Σ_i v_i of values (n,), with the standard error of a mean of independent ones; nan of a single one."""
    v = values.double()
    error = v.std().item() / math.sqrt(len(v)) if len(v) > 1 else math.nan
    return Measurement(v.mean().item(), error, len(v), unit, better, about)
