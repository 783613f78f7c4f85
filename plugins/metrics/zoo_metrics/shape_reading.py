"""What is to be seen in a picture of coloured shapes, found by drawing: analysis by synthesis.

A picture of S x S pixels is taken to be x = g + Σ_k c_k (i_k - g) + noise: a plain ground g, and for each object its
coverage c_k of every pixel and its ink i_k. The ground is the median colour. Objects are taken out one at a time, each
the least-squares fit of one coverage c, in every shape, size and place, sharp or blurred a little, to r = x - g:

    a = Σ c r / Σ c²,      || r - c a ||² = || r ||² - || Σ c r ||² / Σ c²

so the best c has the largest gain || Σ c r ||² / Σ c², and a is its contrast, free in its three channels: a colour that
is slightly off, or paler, is still that colour. Places are searched pixel by pixel through the Fourier transform, and
around the best one in fractions of a pixel.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from zoo_core import DataError
from zoo_core.data import BACKGROUNDS, MAX_SHIFT, PLACES, RGB, SHAPES, SIZES, render

# All in units of white.
GROUND_OFF = 0.1  # how far the ground may lie from a dark grey
INK_OFF = 0.25  # and an ink from a colour, which lie 0.43 apart at least
# An object is seen if it has this part of its colour's contrast, and read if what its drawing leaves over in its part
# of the picture, beyond the noise of the ground, is at most that part of its energy.
FAINT = 0.4
POOR = 0.25

BLURS = (0.7, 1.2)  # standard deviations of blurred drawings, in pixels
STEP = 0.25  # between drawings in fractions of a pixel, about
REACH = 0.36  # of an object's middle from that of the picture, along each axis, in units of the side
MOST = 3  # objects that are looked for: one more than a scene has

_BLOCK = 128  # pictures read at a time, to bound the memory


class Fit(NamedTuple):
    """The object that explains most of some pictures: its kind, middle, contrast, energy and drawing.

    Attributes:
        kind: len(SIZES) * shape + size, (B,).
        middle: x, y in pixels from the upper left corner of the picture, (B, 2).
        contrast: a of its three channels, (B, 3).
        energy: the gain, (B,).
        drawn: c a, (B, 3, S, S).
    """

    kind: Tensor
    middle: Tensor
    contrast: Tensor
    energy: Tensor
    drawn: Tensor


def read_scene(images: Tensor) -> dict[str, Tensor]:
    """The factors of the scenes that pictures (B, 3, S, S) in [0, 1] show: int64 columns (B,) as those of `shapes`.

    `count` is how many objects are seen, 3 for more than two, 0 where the ground is none of the dark greys.
    `colour_k`, `shape_k`, `size_k`, `position_k`, `shift_x_k` and `shift_y_k` tell of the two that stand out most, the
    first before the second; `relation` is that of the first to the second, along the axis on which they are further
    apart; `background` is the nearest grey. -1 stands where there is no such object or ground. An object that no
    drawing fits is unreadable: it is seen, and its shape and size are -1; an ink that is no colour of the palette gives
    the colour -1. A middle between places counts for the nearest, and shifts end at the largest there is.

    Raises:
        DataError: the pictures are not floats of such a shape, at least one, with S of at least 16.
    """
    shape = images.shape
    if len(shape) != 4 or shape[0] < 1 or shape[1] != 3 or shape[2] != shape[3] or shape[2] < 16:
        raise DataError(f"scenes are read off pictures (B, 3, S, S), B at least 1, S at least 16; got {tuple(shape)}")
    if not images.is_floating_point():
        raise DataError(f"scenes are read off floats in [0, 1]; divide these {images.dtype} by 255")
    blocks = [_read(x) for x in torch.split(images.detach().cpu().float(), _BLOCK)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _read(x: Tensor) -> dict[str, Tensor]:
    ground = x.flatten(2).median(2).values
    background, plain = _background(ground)
    rest, fits, seen = x - ground[:, :, None, None], [], []
    for _ in range(MOST):
        fits.append(fit := best_fit(rest))
        colour, visible = _colour(fit.contrast, ground)
        seen.append((colour, visible & plain))
        # What is too faint for an object stays, as something that no object explains.
        rest = rest - fit.drawn * visible[:, None, None, None]
    count = torch.stack([visible for _, visible in seen]).sum(0)
    readable = _readable(rest, fits[:2], count)
    objects = [
        _object(fit, colour, visible, clear, x.shape[-1])
        for fit, (colour, visible), clear in zip(fits[:2], seen[:2], readable, strict=True)
    ]
    return {
        "count": count,
        **{f"{name}_{k}": column for k, columns in enumerate(objects, 1) for name, column in columns.items()},
        "relation": _relation(fits[0].middle, fits[1].middle).masked_fill(count < 2, -1),
        "background": background,
    }


def _background(ground: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest grey of each ground (B, 3), -1 if none is near, and whether there is one."""
    off, background = (ground.unsqueeze(1) - torch.tensor(BACKGROUNDS).view(-1, 1) / 255).abs().amax(2).min(1)
    plain = off <= GROUND_OFF
    return background.masked_fill(~plain, -1), plain


def _colour(contrast: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """The colour of a contrast (B, 3), -1 if none is near, and whether the contrast is enough for an object."""
    full = torch.tensor(list(RGB.values())) / 255 - ground.unsqueeze(1)
    strength = (contrast.unsqueeze(1) * full).sum(2) / full.square().sum(2)
    paler = full * strength.clamp(FAINT, 1 / FAINT).unsqueeze(2)
    off, colour = (contrast.unsqueeze(1) - paler).norm(dim=2).min(1)
    visible = strength.gather(1, colour.unsqueeze(1)).squeeze(1) >= FAINT
    return colour.masked_fill(off > INK_OFF, -1), visible


def _readable(rest: Tensor, fits: list[Fit], count: Tensor) -> list[Tensor]:
    """Whether the drawings of the first two objects explain what lies nearer to each than to the other, (B,)."""
    error = rest.square().sum(1).flatten(1)
    # The mean of a chi-square of three degrees of freedom is 1.27 times its median.
    noise = 1.27 * error.median(1, keepdim=True).values
    corner = torch.arange(rest.shape[-1]) + 0.5
    pixels = torch.cartesian_prod(corner, corner).flip(1)
    first, second = (torch.cdist(fit.middle.unsqueeze(1), pixels).squeeze(1) for fit in fits)
    of_first = (first <= second) | (count < 2).unsqueeze(1)
    left_over = [((error - noise) * part).sum(1) for part in (of_first, ~of_first)]
    return [left <= POOR * fit.energy for left, fit in zip(left_over, fits, strict=True)]


def _object(fit: Fit, colour: Tensor, seen: Tensor, clear: Tensor, side: int) -> dict[str, Tensor]:
    """The factors of what was fitted, as far as it is seen and its drawing clear, in pictures of that side."""
    middle = fit.middle / side
    places = torch.tensor(PLACES)
    column, row = (middle.unsqueeze(2) - places).abs().argmin(2).unbind(1)
    shift = (1000 * (middle - places[torch.stack([column, row], 1)])).round().long().clamp(-MAX_SHIFT, MAX_SHIFT)
    return {
        "colour": colour.masked_fill(~seen, -1),
        "shape": (fit.kind // len(SIZES)).masked_fill(~(seen & clear), -1),
        "size": (fit.kind % len(SIZES)).masked_fill(~(seen & clear), -1),
        "position": (len(PLACES) * row + column).masked_fill(~seen, -1),
        "shift_x": shift[:, 0].masked_fill(~seen, 0),
        "shift_y": shift[:, 1].masked_fill(~seen, 0),
    }


def _relation(first: Tensor, second: Tensor) -> Tensor:
    """0 left of, 1 right of, 2 above, 3 below, for middles x, y (B, 2)."""
    x, y = (second - first).unbind(1)
    return torch.where(x.abs() >= y.abs(), (x < 0).long(), 2 + (y < 0).long())


class _Drawings(NamedTuple):
    """Coverages c / ||c|| in all kinds, to be laid over a picture.

    Attributes:
        spectra: conjugate, of each kind in the middle of the picture, (K, S, S // 2 + 1).
        near: the reach, pixels by which the middle may be moved, as bool (S, S) with the origin at [0, 0].
        fine: each kind, sharp and blurred, moved by fractions of a pixel, (T, w * w) with the middle of the picture
            between the pixels w // 2 - 1 and w // 2 if S is even, in w // 2 if it is odd.
        kind: of each of these, (T,).
        shift: to the right and downwards, in pixels, (T, 2).
        norm: ||c||, (T,).
    """

    spectra: Tensor
    near: Tensor
    fine: Tensor
    kind: Tensor
    shift: Tensor
    norm: Tensor


@functools.cache
def _drawings(side: int) -> _Drawings:
    centred = _coverage(torch.arange(len(SHAPES) * len(SIZES)), torch.zeros(1, 2, dtype=torch.int64), side)
    kind, shift = _kinds_and_shifts(side)
    sharp = _coverage(kind, shift, side)
    drawn = torch.cat([sharp, *(_blurred(sharp, sigma) for sigma in BLURS)])
    # Of blurred drawings only the slightest margin is lost with what lies outside the window.
    half = int((sharp.amax(0).amax(0).nonzero() - side // 2).abs().max()) + 2
    window = slice(side // 2 - half, side // 2 + half)
    fine = drawn[:, window, window].flatten(1)
    offsets = torch.fft.fftfreq(side).abs() <= REACH
    return _Drawings(
        spectra=torch.fft.rfft2(centred / centred.flatten(1).norm(dim=1)[:, None, None]).conj(),
        near=offsets.unsqueeze(1) & offsets,
        fine=fine / fine.norm(dim=1, keepdim=True),
        kind=kind.repeat(1 + len(BLURS)),
        shift=shift.repeat(1 + len(BLURS), 1) * side / 1000,
        norm=fine.norm(dim=1),
    )


def _kinds_and_shifts(side: int) -> tuple[Tensor, Tensor]:
    """All kinds in all shifts up to three quarters of a pixel, as far as `render` shifts: (T,), (T, 2)."""
    furthest = min(MAX_SHIFT, 750 // side)
    steps = torch.linspace(-furthest, furthest, 1 + 2 * round(furthest * side / 1000 / STEP)).round().long()
    kinds = torch.arange(len(SHAPES) * len(SIZES))
    kind, x, y = torch.cartesian_prod(kinds, steps, steps).unbind(1)
    return kind, torch.stack([x, y], 1)


def _coverage(kind: Tensor, shift: Tensor, side: int) -> Tensor:
    """How much of each pixel an object in the middle covers, moved by thousandths of the side: (T, S, S)."""
    shape = kind // len(SIZES)
    x, y = shift.expand(len(kind), 2).unbind(1)
    middle = len(PLACES) ** 2 // 2 + torch.zeros_like(shape)
    white = list(RGB).index("white") + torch.zeros_like(shape)
    factors = {"colour_1": white, "shape_1": shape, "size_1": kind % len(SIZES), "position_1": middle}
    drawn = render({**factors, "shift_x_1": x, "shift_y_1": y}, side)[:, 0].float()
    return (drawn - BACKGROUNDS[0]) / (RGB["white"][0] - BACKGROUNDS[0])


def _blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Pictures (B, H, W) under a Gaussian of that standard deviation."""
    weights = (-0.5 * (torch.arange(-4, 5) / sigma).square()).exp()
    kernel = (weights / weights.sum()).view(1, 1, 1, -1)
    rows = conv2d(pictures.unsqueeze(1), kernel, padding="same")
    return conv2d(rows, kernel.transpose(2, 3), padding="same").squeeze(1)


def best_fit(rest: Tensor) -> Fit:
    """The object that explains most of what is left of some pictures, r (B, 3, S, S)."""
    drawings, side = _drawings(rest.shape[-1]), rest.shape[-1]
    moved = _best_pixel(rest, drawings)
    w = round(drawings.fine.shape[1] ** 0.5)
    under = _under(moved, side, w)
    r = pad(rest, (w, w, w, w))[under].permute(0, 3, 1, 2).reshape(-1, w * w)
    products = (r @ drawings.fine.T).view(len(rest), 3, -1)
    energy, best = products.square().sum(1).max(1)
    strength = products.gather(2, best.view(-1, 1, 1).expand(-1, 3, 1))
    patch = (strength * drawings.fine[best].unsqueeze(1)).view(len(rest), 3, w, w)
    drawn = rest.new_zeros(*rest.shape[:2], side + 2 * w, side + 2 * w)
    drawn[under] = patch.permute(0, 2, 3, 1)
    return Fit(
        kind=drawings.kind[best],
        middle=side / 2 + moved + drawings.shift[best],
        contrast=strength.squeeze(2) / drawings.norm[best].unsqueeze(1),
        energy=energy,
        drawn=drawn[:, :, w:-w, w:-w],
    )


def _best_pixel(rest: Tensor, drawings: _Drawings) -> Tensor:
    """How far the best drawing is moved from the middle of each picture, x and y in whole pixels, (B, 2)."""
    side = rest.shape[-1]
    spectra = torch.fft.rfft2(rest).unsqueeze(2) * drawings.spectra
    gain = torch.fft.irfft2(spectra, s=(side, side)).square().sum(1).amax(1)
    place = gain.masked_fill(~drawings.near, -1).flatten(1).argmax(1)
    offset = torch.fft.fftfreq(side, 1 / side).round().long()
    return torch.stack([offset[place % side], offset[place // side]], 1)


def _under(moved: Tensor, side: int, w: int) -> tuple[Tensor | slice, ...]:
    """Indices of the pixels under a window of w x w so moved, of pictures (B, 3, S, S) with a margin of w pixels."""
    columns, rows = (moved.unsqueeze(2) + torch.arange(w) - w // 2 + side // 2 + w).unbind(1)
    return torch.arange(len(moved))[:, None, None], slice(None), rows.unsqueeze(2), columns.unsqueeze(1)
