"""How evenly pictures change along a path through latent space."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Extractor, Measurement, PositiveFloat, PositiveInt
from zoo_metrics.averages import AverageMetric
from zoo_metrics.geometry.codes import lerp, prior_draws, slerp

Path = Callable[[Tensor], Tensor]  # t (n,), float64 → features of the n pictures there, float64 (n, d)

PATHS = {"slerp": slerp, "lerp": lerp}


class InterpolationSmoothness(AverageMetric):
    """Along a path z(t) between two draws z(0), z(1) ~ p(z), with f(t) the features of the decoded z(t):

        path_length    = E[ || f(t + eps) - f(t) ||^2 / eps^2 ],  t ~ U(0, 1),
        step_variation = E[ sd(d) / mean(d) ],  d_s = || f(s / S) - f((s - 1) / S) || for s = 1, …, S,

    with sd over the S steps of a path (divided by S), one path for each example of the evaluation. The first is the
    perceptual path length of Karras et al. (2019) https://arxiv.org/abs/1812.04948 in the features at hand, without the
    rejection of long paths: small where pictures change little. The second is 0 where each path moves at one speed,
    and large where pictures stand still and then jump; a path that changes nothing counts as 0.

    Features are of the decoded numbers themselves: rounded to 256 levels, such small differences are rounding. No
    standard fixes path, eps and S: here they are slerp, 1e-4 and 16.

    Reports ``path_length (F)`` and ``step_variation (F)``, F being the extractor's name.

    Args:
        extractor: of features; default the values of the pixels.
        steps: S.
        eps: in units of t.
        path: ``slerp`` goes around the origin, as suits N(0, I), with the length growing evenly; ``lerp`` straight on.

    Raises:
        ConfigError: the model has no real latents with a prior, or no picture changes along its path.
    """

    def __init__(
        self,
        extractor: Extractor | None = None,
        steps: PositiveInt = 16,
        eps: PositiveFloat = 1e-4,
        path: Literal["slerp", "lerp"] = "slerp",
    ) -> None:
        super().__init__()
        self.extractor, self.steps, self.eps, self.path = extractor, steps, eps, path

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        n = len(batch["image"])
        z_0, z_1 = (prior_draws("interpolation_smoothness", model, n) for _ in range(2))

        def f(t: Tensor) -> Tensor:
            return self.features(model.decode(PATHS[self.path](z_0, z_1, t.to(z_0.device))))

        of_label = {"path_length": path_length(f, n, self.eps), "step_variation": step_variation(f, n, self.steps)}
        self.add(**{f"{name} ({self.label})": value for name, value in of_label.items()})

    def compute(self) -> dict[str, Measurement]:
        values = super().compute()
        if values and values[f"path_length ({self.label})"].value == 0:
            raise ConfigError(
                "metric 'interpolation_smoothness': no picture changes along its path, so that there is nothing to "
                "be smooth: the decoder does not look at z"
            )
        about = {"path": self.path, "eps": self.eps, "steps": self.steps}
        if self.extractor is not None:
            about |= self.extractor.identity
        return {name: value._replace(about=about) for name, value in values.items()}

    @property
    def label(self) -> str:
        """The short name of what the features are."""
        return "pixels" if self.extractor is None else self.extractor.label

    def features(self, x: Tensor) -> Tensor:
        """Of images as they are, float64 (B, d)."""
        f = x if self.extractor is None else self.extractor.eval().to(x.device)(x.float())
        return f.flatten(1).double().cpu()


def path_length(f: Path, n: int, eps: float) -> Tensor:
    """|| f(t + eps) - f(t) ||^2 / eps^2 at one t ~ U(0, 1) for each of n paths f, (n,)."""
    t = torch.rand(n, dtype=torch.float64)
    return ((f(t + eps) - f(t)) / eps).square().sum(1)


def step_variation(f: Path, n: int, steps: int) -> Tensor:
    """sd(d) / mean(d) of the lengths d of so many equal steps of t along each of n paths f, (n,); 0 if all d are 0."""
    places = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    # Two places at a time: pictures along a whole path would take a lot of memory.
    d = torch.stack([(b - a).norm(dim=1) for a, b in pairwise(f(t.expand(n)) for t in places)])
    return d.std(0, correction=0) / d.mean(0).clamp(min=torch.finfo(d.dtype).tiny)
