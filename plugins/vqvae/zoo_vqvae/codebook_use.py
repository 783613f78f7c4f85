"""How much of a codebook is in use."""

import math
from typing import Any

import torch

from zoo_core import Batch, Measurement, Metric
from zoo_vqvae.perplexity import perplexity
from zoo_vqvae.vq import require_quantizer


class CodebookUse(Metric):
    """exp H of the codes of all data together, and the share of the K codes that occur among them.

    Neural discrete representation learning (van den Oord et al., 2017) https://arxiv.org/abs/1711.00937

    Reports ``codebook_perplexity``, from 1 to K, and ``codebook_used``, from 0 to 1: means over the codebooks, where
    there are several. Counts are added up over batches first: the mean of the perplexities of batches would be lower.

    Raises:
        ConfigError: the model has no quantizer.
    """

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        require_quantizer("metric 'codebook'", model)
        x = batch["image"]
        counts = model.quantizer.counts(model.encode(x)).double().cpu()
        seen = {"counts": counts, "examples": torch.tensor(len(x), dtype=torch.float64)}
        self.state = {name: self.state.get(name, 0) + value for name, value in seen.items()}

    def compute(self) -> dict[str, Measurement]:
        counts, n = self.state["counts"], int(self.state["examples"])
        used = (counts > 0).double().mean()
        return {
            "codebook_perplexity": Measurement(float(perplexity(counts).mean()), math.nan, n),
            "codebook_used": Measurement(float(used), math.nan, n, "1"),
        }
