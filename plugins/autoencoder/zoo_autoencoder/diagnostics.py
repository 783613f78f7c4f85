"""What an encoder has learned to notice and to ignore. f(x) is the mean of q(z|x), r(x) that of p(x|f(x))."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo_autoencoder.jacobian import jacobian
from zoo_core import Encoder, LatentVariableModel, NonNegativeFloat, PositiveFloat, PositiveInt


@torch.no_grad()
def dead_units(encoder: Encoder, x: Tensor, tolerance: NonNegativeFloat = 0.01) -> float:
    """The share of units k whose f_k(x) hardly varies over the data x (B, *data_shape), from 0 to 1.

    Args:
        tolerance: standard deviation over the data up to which a unit is dead; the default suits units in [0, 1].
    """
    z: Tensor = encoder(x).mean.flatten(1)
    return (z.std(0, correction=0) <= tolerance).float().mean().item()


@torch.no_grad()
def singular_values(encoder: Encoder, x: Tensor) -> Tensor:
    """Of J_f(x), falling, (B, min(L, D)): by how much f stretches the directions around each x.

    Contractive auto-encoders (Rifai et al., 2011) https://icml.cc/2011/papers/455_icmlpaper.pdf
    """
    s: Tensor = torch.linalg.svdvals(jacobian(encoder, x))
    return s


class Sensitivity(NamedTuple):
    """Singular values of J_f(x), falling: ``along`` a tangent space (B, min(L, d)), ``across`` (B, min(L, D - d))."""

    along: Tensor
    across: Tensor


@torch.no_grad()
def sensitivity(encoder: Encoder, x: Tensor, tangent: Tensor) -> Sensitivity:
    """Of J_f(x) T and of J_f(x) N: N completes T, a basis of the tangent space at x, to all directions.

    A good code of data near a manifold is sensitive along it and not across it (Rifai et al., 2011)
    https://icml.cc/2011/papers/455_icmlpaper.pdf

    Args:
        tangent: (B, D, d), of full rank; see ``local_tangents``.
    """
    J, d = jacobian(encoder, x), tangent.shape[-1]
    Q, _ = torch.linalg.qr(tangent, mode="complete")
    along, across = (J @ Q).split([d, Q.shape[-1] - d], -1)
    return Sensitivity(torch.linalg.svdvals(along), torch.linalg.svdvals(across))


@torch.no_grad()
def local_tangents(x: Tensor, dimensions: PositiveInt, neighbours: PositiveInt = 10) -> Tensor:
    """The principal directions (B, D, d) of the neighbours of each x, in x (B, *data_shape) itself.

    Args:
        dimensions: d, of the manifold; at most D, and less than ``neighbours``.
    """
    x = x.flatten(1)
    near = torch.cdist(x, x).topk(neighbours + 1, largest=False).indices
    directions: Tensor = torch.linalg.svd(x[near] - x[near].mean(1, keepdim=True), full_matrices=False).Vh
    return directions[:, :dimensions].mT


@torch.no_grad()
def score(model: LatentVariableModel, x: Tensor, sigma: PositiveFloat) -> Tensor:
    """(r(x) - x) / sigma^2, of the shape of x: grad log p(x) in nats per unit of x, as sigma falls.

    For a model trained by ``denoising`` with this sigma under squared error, that is a Gaussian likelihood:
    What regularized auto-encoders learn from the data-generating distribution (Alain & Bengio, 2014)
    https://jmlr.org/papers/v15/alain14a.html
    """
    # Not ``reconstruct``, which keeps pictures in [0, 1].
    r: Tensor = model.decoder(model.encode(x)).mean
    return (r - x) / sigma**2
