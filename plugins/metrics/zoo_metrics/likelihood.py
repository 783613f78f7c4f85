"""Bounds on the log-likelihood of held-out data, in nats per example."""

from typing import Any

import torch

from zoo_core import Batch, ConfigError, LatentVariableModel, Measurement, PositiveInt, kl
from zoo_metrics.averages import AverageMetric


class ELBO(AverageMetric):
    """ELBO = -distortion - rate, with distortion -E_q[log p(x|z)] and rate KL(q(z|x) || p(z)).

    Auto-encoding variational Bayes (Kingma & Welling, 2014) https://arxiv.org/abs/1312.6114

    Args:
        samples: draws of z per example over which the distortion is meaned.
    """

    def __init__(self, samples: PositiveInt = 1) -> None:
        super().__init__()
        self.samples = samples

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        # As modules or, like the exact ones of PPCA, as methods.
        require("elbo", model, all(hasattr(model, part) for part in ("encoder", "decoder", "prior")))
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample((self.samples,))
        distortion = -model.decoder(z).log_prob(x).mean(0)
        # Without a closed form the KL is estimated from the same draws.
        rate = kl(q, p_z, z).expand(self.samples, -1).mean(0)
        self.add(elbo=-distortion - rate, distortion=distortion, rate=rate)

    def compute(self) -> dict[str, Measurement]:
        directions = {"distortion": "lower", "rate": "neither"}
        return {name: m._replace(better=directions.get(name, "")) for name, m in super().compute().items()}


class IWAE(AverageMetric):
    """L_K = E[log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x)] for z_k ~ q(z|x).

    Importance-weighted autoencoders (Burda et al., 2016) https://arxiv.org/abs/1509.00519

    Args:
        samples: K; part of the name under which the value is reported, since L_K rises with K.
        chunk: how many of the K are decoded at a time.
    """

    def __init__(self, samples: PositiveInt = 500, chunk: PositiveInt = 50) -> None:
        super().__init__()
        self.samples, self.chunk = samples, chunk

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        require("iwae", model, isinstance(model, LatentVariableModel))
        bound = model.log_prob(batch["image"], samples=self.samples, chunk=self.chunk)
        self.add(**{f"iwae_{self.samples}": bound})


class LogProb(AverageMetric):
    """log p(x) as the model's own ``log_prob`` gives it: exact where the model's spec says so."""

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        try:
            self.add(log_prob=model.log_prob(batch["image"]))
        except NotImplementedError as error:
            raise ConfigError(f"metric 'log_prob': {error}") from None


def require(metric: str, model: Any, has_posterior: bool) -> None:
    """Refuses a model without the q(z|x) that a metric needs.

    Raises:
        ConfigError: naming metric and model.
    """
    if not has_posterior:
        raise ConfigError(f"metric {metric!r} needs a model with a posterior q(z|x); {type(model).__name__} has none")
