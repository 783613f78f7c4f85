"""How alike reconstructions are to held-out images in the features of a trained network."""

import functools
from typing import Any, Literal

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement
from zoo_metrics.averages import AverageMetric

VERSION = "0.1"  # of the weights of the linear layers

Net = Literal["alex", "vgg", "squeeze"]


class LPIPS(AverageMetric):
    """Σ_l 1/(H_l W_l) Σ_hw || w_l (f_l(x) - f_l(r(x))) ||^2 for r = ``reconstruct``; f_l are features of length 1.

    The unreasonable effectiveness of deep features as a perceptual metric (Zhang et al., 2018)
    https://arxiv.org/abs/1801.03924

    Computed by the package ``lpips``, which has the learned w and loads the networks through torchvision: it is given
    images in [-1, 1], grey ones in three equal channels. Reports ``lpips``, the mean over images; values of different
    networks are not comparable.

    Args:
        net: whose features.

    Raises:
        ConfigError: a package is missing, its weights cannot be had, or the data are no images.
    """

    def __init__(self, net: Net = "alex") -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        x = batch["image"]
        if not hasattr(model, "reconstruct"):
            raise ConfigError(f"metric 'lpips' needs a model that reconstructs; {type(model).__name__} does not")
        network, pairs = loaded(self.net).to(x.device), (for_network(x), for_network(model.reconstruct(x)))
        try:
            self.add(lpips=network(*pairs).flatten())
        except RuntimeError as error:
            shape = tuple(x.shape[1:])
            raise ConfigError(f"metric 'lpips': {self.net!r} does not take images of {shape}: {error}") from None

    def compute(self) -> dict[str, Measurement]:
        about = {"net": self.net, "version": VERSION}
        return {name: value._replace(about=about) for name, value in super().compute().items()}


def for_network(x: Tensor) -> Tensor:
    """Images (B, 1 or 3, H, W) in [0, 1] as float32 (B, 3, H, W) in [-1, 1].

    Raises:
        ConfigError: they are no such images.
    """
    if x.dim() != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise ConfigError(
            f"metric 'lpips' needs grey or colour images (C, H, W); the data have shape {tuple(x.shape[1:])}"
        )
    return (2 * x.float() - 1).expand(-1, 3, -1, -1)


@functools.cache
def loaded(net: Net) -> Any:
    """The network, in evaluation mode; once for all metrics.

    Raises:
        ConfigError: naming the package that is missing, or what went wrong with its weights.
    """
    try:
        import lpips  # type: ignore[import-not-found]
    except (ImportError, RuntimeError) as error:  # the latter of a torchvision for another torch
        raise ConfigError(
            f"metric 'lpips' needs the packages lpips and torchvision: pip install lpips torchvision ({error})"
        ) from None
    try:
        return lpips.LPIPS(net=net, version=VERSION, verbose=False).eval()
    except OSError as error:  # urllib's URLError is one
        raise ConfigError(f"metric 'lpips': the weights of {net!r} cannot be had: {error}") from None
