"""Movements in latent space, for any model that encodes and decodes. Latents are (B, *latent_shape).

Functions that look at many examples x take them as a tensor (N, *data_shape); as an iterable of such tensors, or
of batches, whose other columns a model with a condition is given; or as a data set, which goes through the model's
own preprocessing. They hold one chunk at a time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from zoo_core.components import Batch, device_of
from zoo_core.data import Dataset
from zoo_core.distributions import kl_per_dimension, require_density
from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluation.sharing import to_device

Part = TypeVar("Part")

CHUNK = 500  # examples encoded at a time
DRAWS = 4096  # of a distribution whose moments or quantiles have no formula


@runtime_checkable
class Codec(Protocol):
    """What every function here needs of a model: real latents of one shape, and the way to them and back."""

    latent_shape: tuple[int, ...]

    def encode(self, x: Tensor) -> Tensor:
        """x (B, *data_shape) → z (B, *latent_shape)."""

    def decode(self, z: Tensor) -> Tensor:
        """z (*, *latent_shape) → (*, *data_shape)."""


Examples = Tensor | Dataset | Iterable[Tensor | Batch]


class Reference(NamedTuple):
    """The distribution that says how far is far in latent space, and of what it is: ``p(z)`` or ``the codes``."""

    p: Distribution
    of: str


class Relevance(NamedTuple):
    """How much each latent dimension carries, (*latent_shape), and how that was measured: ``KL`` or ``variance``."""

    values: Tensor
    measure: str


# Codes.


def encode(model: Any, x: Tensor) -> Tensor:
    """z = model.encode(x), (B, *latent_shape), refused where there is nothing between two codes.

    Raises:
        ConfigError: the model does not encode and decode, or its codes are indices.
    """
    if not isinstance(model, Codec):
        raise ConfigError(f"{type(model).__name__} does not encode and decode, so it has no latents to move in")
    z: Any = model.encode(x)
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise ConfigError(
            f"{type(model).__name__} encodes into indices, with nothing between two of them; "
            "take a model of real latents"
        )
    return z


@torch.no_grad()
def codes(model: Codec, x: Examples) -> Tensor:
    """The codes of all examples, (N, *latent_shape). Raises as ``encode``, and DataError if there are none."""
    parts = (encode(*part) for part in _parts(model, x))
    return torch.cat([_first(parts), *parts])


# Paths.


def linear(z_0: Tensor, z_1: Tensor, steps: int) -> Tensor:
    """z_t = (1 - t) z_0 + t z_1 for ``steps`` values of t from 0 to 1: (steps, *z.shape)."""
    t = _times(z_0, steps)
    return (1 - t) * z_0 + t * z_1


def spherical(z_0: Tensor, z_1: Tensor, steps: int) -> Tensor:
    """z_t = (sin((1 - t) w) z_0 + sin(t w) z_1) / sin w, w the angle between them: (steps, *z.shape).

    Keeps the length where both have the same, as draws of a Gaussian prior nearly do. Latents that point
    the same way, or opposite ways, have no such arc: they are joined linearly.
    Animating rotation with quaternion curves (Shoemake, 1985); for latents White (2016)
    https://arxiv.org/abs/1609.04468
    """
    t = _times(z_0, steps)
    flat_0, flat_1 = z_0.flatten(1), z_1.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_0, flat_1, dim=1)
    w = torch.acos(cosine.clamp(-1, 1)).view(-1, *[1] * (z_0.dim() - 1))
    arc = (torch.sin((1 - t) * w) * z_0 + torch.sin(t * w) * z_1) / torch.sin(w)
    return torch.where(torch.sin(w).abs() < 1e-4, linear(z_0, z_1, steps), arc)


@torch.no_grad()
def interpolate(model: Codec, x_0: Tensor, x_1: Tensor, steps: int = 9, *, path: str = "spherical") -> Tensor:
    """Decoded pictures on the way from x_0 to x_1, each (B, *data_shape): (steps, B, *data_shape).

    Args:
        path: ``spherical`` or ``linear``.

    Raises:
        ConfigError: as ``encode``.
    """
    paths = {"linear": linear, "spherical": spherical}
    z = paths[path](encode(model, x_0), encode(model, x_1), steps)
    return model.decode(z)


def _times(z: Tensor, steps: int) -> Tensor:
    return torch.linspace(0, 1, steps, device=z.device, dtype=z.dtype).view(-1, *[1] * z.dim())


# Attributes.


def attribute_direction(model: Codec, x_plus: Examples, x_minus: Examples) -> Tensor:
    """Delta = mean(z+) - mean(z-), (*latent_shape): from examples without an attribute to examples with it.

    The visual attribute vectors of Autoencoding beyond pixels using a learned similarity metric (Larsen et
    al., 2016) https://arxiv.org/abs/1512.09300

    Raises:
        ConfigError: as ``encode``.
        DataError: one side has no examples.
    """
    return _code_moments(model, x_plus)[0] - _code_moments(model, x_minus)[0]


def shift(z: Tensor, delta: Tensor, s: float | Sequence[float] | Tensor) -> Tensor:
    """z' = z + s Delta for every strength s (*S): (*S, *z.shape), for z (B, *latent_shape) and one Delta."""
    strength = torch.as_tensor(s, dtype=z.dtype, device=z.device)
    return z + strength.view(*strength.shape, *[1] * z.dim()) * delta


# Dimensions, counted through the flattened latent.


@torch.no_grad()
def traverse(model: Codec, z: Tensor, dimensions: Sequence[int] | Tensor, values: Sequence[float] | Tensor) -> Tensor:
    """Pictures decoded with z_j = v, one dimension at a time, the others as they are: (J, V, *, *data_shape).

    beta-VAE (Higgins et al., 2017) https://openreview.net/forum?id=Sy2fzU9gl

    Args:
        z: where to start, (*, *latent_shape).
        dimensions: J places in the flattened latent.
        values: V numbers for all of them, or (J, V), each its own.

    Raises:
        ConfigError: there is no such dimension.
    """
    flat = z.flatten(z.dim() - len(model.latent_shape))
    places = [int(j) for j in dimensions]
    _require_dimensions(places, flat.shape[-1])
    rows = torch.as_tensor(values, dtype=z.dtype, device=z.device)
    rows = rows.expand(len(places), rows.shape[-1])
    moved = (_replaced(flat, j, row) for j, row in zip(places, rows, strict=True))
    return torch.stack([model.decode(m.reshape(*m.shape[:-1], *model.latent_shape)) for m in moved])


def _replaced(flat: Tensor, j: int, row: Tensor) -> Tensor:
    """flat (*, D) once for every value v of the row (V,), with v in place j: (V, *, D)."""
    moved = flat.expand(len(row), *flat.shape).clone()
    moved[..., j] = row.view(-1, *[1] * (flat.dim() - 1))
    return moved


def _require_dimensions(places: Sequence[int], size: int) -> None:
    wrong = [j for j in places if not 0 <= j < size]
    if wrong or not places:
        raise ConfigError(f"dimensions: must be some of 0 to {size - 1}, got {wrong or 'none'}")


@torch.no_grad()
def kl_by_dimension(model: Any, x: Examples) -> Tensor:
    """The mean over examples of KL(q(z_j|x) || p(z_j)) in nats for each j, (*latent_shape).

    Of a Gaussian with a full covariance, q(z_j|x) is the marginal. Where the dimensions of q and of p are
    independent, the sum over j is the mean of KL(q(z|x) || p(z)); elsewhere it lacks what they share.

    Raises:
        ConfigError: the model has no q(z|x) and p(z), q is a Dirac, or there is no closed form.
        DataError: there are no examples.
    """
    if not (hasattr(model, "encoder") and hasattr(model, "prior")):
        raise ConfigError(f"{type(model).__name__} has no q(z|x) and p(z) whose KL could be computed")
    parts = _parts(model, x)
    kls = (kl_per_dimension(_marginals(given.encoder(part)), _marginals(given.prior())) for given, part in parts)
    return _means(kls)[0]


def activity_by_dimension(model: Codec, x: Examples) -> Tensor:
    """A_j = Var_x(E[z_j|x]), the variance over examples of the codes, (*latent_shape).

    The activity of a unit in Importance weighted autoencoders (Burda et al., 2016)
    https://arxiv.org/abs/1509.00519 . Raises as ``codes``.
    """
    return _code_moments(model, x)[1]


@torch.no_grad()
def relevance(model: Codec, x: Examples) -> Relevance:
    """``kl_by_dimension``, or ``activity_by_dimension`` where the model has no KL for each dimension.

    Raises:
        ConfigError: as ``encode``.
        DataError: there are no examples.
    """
    (given, first), batches = _peeked(model, x)
    encode(given, first)
    try:
        kl_by_dimension(given, first)
    except ConfigError:
        return Relevance(activity_by_dimension(model, batches), "variance")
    return Relevance(kl_by_dimension(model, batches), "KL")


# Distributions of z.


def reference(model: Codec, x: Examples) -> Reference:
    """p(z); or the Gaussian with the mean and the variances of the codes.

    The latter where q(z|x) is a Dirac, since no KL makes such codes follow p(z) and steps in its units would mean
    nothing; and where there is no p(z), or one for each condition. Raises as ``codes``.
    """
    (given, first), batches = _peeked(model, x)
    if _has_density(given, first) and not (p := given.prior()).batch_shape:
        return Reference(p, "p(z)")
    mean, variance = _code_moments(model, batches)
    p_codes = Normal(mean, variance.sqrt(), validate_args=False)
    return Reference(Independent(p_codes, mean.dim(), validate_args=False), "the codes")


@torch.no_grad()
def _has_density(model: Any, x: Tensor) -> bool:
    if not (hasattr(model, "encoder") and hasattr(model, "prior")):
        return False
    try:
        require_density(model.encoder(x), "log q(z|x)")
    except ConfigError:
        return False
    return True


@torch.no_grad()
def moments(p: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension of p, (*event) each; from draws where there is no formula."""
    try:
        return p.mean, p.stddev
    except NotImplementedError:
        z = p.sample(torch.Size((DRAWS,)))
        return z.mean(0), z.std(0)


@torch.no_grad()
def quantiles(p: Distribution, levels: Tensor) -> Tensor:
    """F_j^-1(u), F_j the distribution function of z_j ~ p, for levels u (U,) on p's device: (U, *event).

    Exact for independent dimensions with a formula, such as Gaussians; else those of draws from p.
    """
    factors = _marginals(p)
    while isinstance(factors, Independent):
        factors = factors.base_dist
    try:
        return factors.icdf(levels.view(-1, *[1] * len(p.event_shape)).expand(-1, *p.event_shape))
    except NotImplementedError:
        z = p.sample(torch.Size((DRAWS,)))
        return z.quantile(levels.to(z), dim=0)


def _marginals(p: Distribution) -> Distribution:
    """p with its dimensions made independent, where it is a Gaussian with a full covariance."""
    if not isinstance(p, MultivariateNormal):
        return p
    return Independent(Normal(p.loc, p.variance.sqrt(), validate_args=False), 1, validate_args=False)


# Maps.


@torch.no_grad()
def manifold(model: Codec, z_0: Tensor, z_1: Tensor) -> Tensor:
    """Pictures of a model with two latents, decoded on a plane as a map shows it: (R, C, *data_shape).

    Column c has the c-th of z_0 (C,), from left to right; row r has the r-th of z_1 (R,) from the bottom.
    Figure 4 of Auto-encoding variational Bayes (Kingma & Welling, 2014) https://arxiv.org/abs/1312.6114

    Raises:
        ConfigError: the model has not two latents.
    """
    if torch.Size(model.latent_shape).numel() != 2:
        raise ConfigError(f"a plane of latents needs a model that has two, not {tuple(model.latent_shape)}")
    up, right = torch.meshgrid(z_1.flip(0), z_0, indexing="ij")
    return model.decode(torch.stack([right, up], -1).view(*up.shape, *model.latent_shape))


def principal_components(z: Tensor) -> tuple[Tensor, list[float]]:
    """The first two principal components of codes z (N, *latent_shape): (N, 2), and their shares of the variance.

    Raises:
        ConfigError: there are fewer than two examples or dimensions.
    """
    from sklearn.decomposition import PCA

    rows = z.flatten(1).double().cpu().numpy()
    if min(rows.shape) < 2:
        raise ConfigError(
            f"principal components need two examples and two latents, got {rows.shape[0]} and {rows.shape[1]}"
        )
    pca = PCA(2, svd_solver="full")
    return torch.from_numpy(pca.fit_transform(rows)), pca.explained_variance_ratio_.tolist()


# Examples in parts.


def _batches(model: Any, x: Examples) -> Iterator[Tensor | Batch]:
    if isinstance(x, Tensor):
        yield from torch.split(x, CHUNK) if len(x) else ()
    elif isinstance(x, Dataset):
        device = device_of(model)
        for indices in torch.split(torch.arange(len(x)), CHUNK):
            yield model.preprocessing(to_device(x.batch(indices), device))
    else:
        yield from x


def _parts(model: Any, x: Examples) -> Iterator[tuple[Any, Tensor]]:
    """The model as it is under the condition of each batch, and its x."""
    for batch in _batches(model, x):
        yield (model.given(batch), batch["image"]) if isinstance(batch, Mapping) else (model, batch)


def _peeked(model: Any, x: Examples) -> tuple[tuple[Any, Tensor], Iterator[Tensor | Batch]]:
    """The first part, and all batches."""
    batches = _batches(model, x)
    first = _first(batches)
    return next(_parts(model, [first])), chain([first], batches)


def _first(parts: Iterator[Part]) -> Part:
    for part in parts:
        return part
    raise DataError("there are no examples to encode")


@torch.no_grad()
def _code_moments(model: Codec, x: Examples) -> tuple[Tensor, Tensor]:
    """Mean and variance of the codes, (*latent_shape) each."""
    return _means(encode(*part) for part in _parts(model, x))


def _means(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance over the rows of all parts, summed in float64."""
    first = _first(parts)
    # Around a point among the rows, little is lost in the difference of squares; some devices lack float64.
    centre = first[0].cpu().double()
    n, total, square = 0, torch.zeros_like(centre), torch.zeros_like(centre)
    for part in chain([first], parts):
        d = part.cpu().double() - centre
        n, total, square = n + len(d), total + d.sum(0), square + d.square().sum(0)
    mean = total / n
    return (mean + centre).to(first), (square / n - mean.square()).clamp(min=0).to(first)
