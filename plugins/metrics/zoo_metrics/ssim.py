"""How alike the structure of reconstructions is to that of held-out images."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from zoo_core import Batch, ConfigError
from zoo_metrics.averages import AverageMetric

WINDOW, SIGMA = 11, 1.5
K_1, K_2 = 0.01, 0.03


class SSIM(AverageMetric):
    """The structural similarity of images and their reconstructions, values in [0, 1]: 1 where they are equal.

    Image quality assessment: from error visibility to structural similarity (Wang et al., 2004)
    https://doi.org/10.1109/TIP.2003.819861

    See ``structural_similarity``. Reports ``ssim``, the mean over images.

    Raises:
        ConfigError: the model does not reconstruct, or the data are no images of at least 11 x 11 pixels.
    """

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        x = batch["image"]
        require_images(model, x)
        self.add(ssim=structural_similarity(x, model.reconstruct(x)))


def structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """The mean over places and channels, float64 (B,), of images x and y (B, C, H, W) in [0, 1], of

        (2 mu_x mu_y + 0.01^2) (2 sigma_xy + 0.03^2) / ((mu_x^2 + mu_y^2 + 0.01^2) (sigma_x^2 + sigma_y^2 + 0.03^2)),

    where mu, sigma^2 and sigma_xy are means, variances and the covariance in a window of 11 x 11 pixels weighted by a
    Gaussian of standard deviation 1.5, in every place at which the window lies inside of the image.
    """
    x, y = x.double(), y.double()
    mu_x, mu_y, xx, yy, xy = map(windowed, (x, y, x * x, y * y, x * y))
    var_x, var_y, covariance = xx - mu_x.square(), yy - mu_y.square(), xy - mu_x * mu_y
    light = (2 * mu_x * mu_y + K_1**2) / (mu_x.square() + mu_y.square() + K_1**2)
    structure = (2 * covariance + K_2**2) / (var_x + var_y + K_2**2)
    return (light * structure).flatten(1).mean(1)


def windowed(x: Tensor) -> Tensor:
    """The weighted mean in each window, (B, C, H - 10, W - 10)."""
    places = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    weights = torch.softmax(-0.5 * (places / SIGMA).square(), 0)
    planes = x.flatten(0, 1).unsqueeze(1)
    means = conv2d(conv2d(planes, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    return means.view(*x.shape[:2], *means.shape[2:])


def require_images(model: Any, x: Tensor) -> None:
    """Refuses a model that does not reconstruct, and data in which no window lies.

    Raises:
        ConfigError: naming the model, or the shape.
    """
    if not hasattr(model, "reconstruct"):
        raise ConfigError(f"metric 'ssim' needs a model that reconstructs; {type(model).__name__} does not")
    if x.dim() != 4 or min(x.shape[2:]) < WINDOW or not x.is_floating_point():
        raise ConfigError(
            f"metric 'ssim' needs images of {WINDOW} x {WINDOW} pixels at least, which its window covers; the data "
            f"have shape {tuple(x.shape[1:])}: measure 'psnr'"
        )
