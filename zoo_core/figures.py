"""Figures: pictures with words around them, drawn with matplotlib. Images have values in [0, 1]."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
from torch import Tensor

from zoo_core.errors import DataError
from zoo_core.images import GAP, grid, save_png, to_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 128  # a power of two, so that sizes in pixels survive the way through inches
FONT = 8  # points: 14 pixels
LINE, PAD = 18, 10  # pixels of a line of text, and between the parts of a figure
SMALLEST = 56  # pixels an image takes up at least, so that words fit beside and above it
PANEL, ALONE = 480, 640  # pixels that each side of a panel has at least, beside another one and alone
MOST_GROUPS = 20

# Ten colours chosen to be told apart under the common deficiencies of colour vision: Accessible color sequences
# for data visualization (Petroff, 2021) https://arxiv.org/abs/2107.02270 . Each has a mark of its own besides.
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKS = "os^vDPX<>*p"  # eleven: with ten colours, the pair returns after 110 groups only


class Plane(NamedTuple):
    """Pictures (R, C, *data_shape) decoded on a plane of latents: column c at z_0[c], row r at z_1[R - 1 - r]."""

    images: Tensor
    z_0: Tensor
    z_1: Tensor


class Panel(NamedTuple):
    """Points of one panel, each with its label and the mark (of ``MARKS``, by number) that it has in every panel."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str]
    marks: Sequence[int]


class Box(NamedTuple):
    """Where a part of a figure lies, in pixels from the upper left."""

    left: int
    top: int
    width: int
    height: int


def labelled_grid(
    images: Tensor, rows: Sequence[str], columns: Sequence[str], *, caption: str = "", enlarge: int | None = None
) -> "Figure":
    """Images (R, C, channels, H, W) with a label beside every row and one above every column.

    Args:
        caption: what the columns are, below them.
        enlarge: side of an image's pixel in the figure; by default so long that the labels fit.
    """
    images = _enlarged(images, enlarge or math.ceil(SMALLEST / min(images.shape[-2:])))
    *_, height, width = images.shape
    pixels = _pixels(images)
    box = Box(_width(rows) + 2 * PAD, LINE + PAD, pixels.shape[1], pixels.shape[0])
    # A caption wider than the images is centred below them all the same.
    overhang = max(0, _width([caption]) - box.width) // 2
    figure = _figure(box.left + box.width + overhang + PAD, box.top + box.height + PAD + (LINE + PAD) * bool(caption))
    axes = _picture(figure, box, pixels)
    axes.set_xticks(_centres(len(columns), width), columns)
    axes.set_yticks(_centres(len(rows), height), rows)
    axes.xaxis.tick_top()
    _plain(axes)
    axes.set_xlabel(caption, labelpad=4, size=FONT)
    axes.xaxis.set_label_position("bottom")
    return figure


def latent_map(
    points: Tensor,
    names: tuple[str, str],
    *,
    groups: Sequence[int] | Sequence[str] = (),
    legend: str = "",
    plane: Plane | None = None,
) -> "Figure":
    """Points (N, 2) as a scatter, coloured by group; on its left the pictures of a plane, if there are any.

    Args:
        names: of the two axes.
        groups: one for each point. Up to 20 different ones have a colour, a mark, their name at their median
            and a place in the legend; more must be numbers, and have a colour bar.
        legend: what the groups are.
        plane: its edges are drawn into the scatter.

    Raises:
        DataError: there are more than 20 different groups, which are no numbers.
    """
    kinds: list[Any] = sorted(set[Any](groups))
    legend = _plain_text(legend)
    _require_few(kinds, legend)
    edge = _width(["-00.0"]) + LINE + 2 * PAD
    shown = _pixels(_large(plane)) if plane else numpy.zeros((0, 0, 3))
    height, width, _ = shown.shape
    left, size = (2 * edge + PAD + width, max(height, width)) if plane else (edge, ALONE)
    figure = _figure(left + size + _beside(legend, kinds), PAD + size + 2 * LINE + 2 * PAD)
    axes = _axes(figure, Box(left, PAD, size, size))
    _scatter(axes, points.cpu().numpy(), groups, kinds, legend)
    if plane:
        _frame(axes, plane)
        _show_plane(_picture(figure, Box(edge, PAD, width, height), shown), plane, names)
    axes.set_xlabel(names[0], size=FONT)
    axes.set_ylabel(names[1], size=FONT)
    return figure


def labelled_curve(x: Sequence[float], y: Sequence[float], labels: Sequence[str], names: tuple[str, str]) -> "Figure":
    """Points joined in their order, each with a label beside it; ``names`` are those of the axes."""
    edge = _width([f"{value:.1f}" for value in y]) + LINE + 3 * PAD
    beside = _width(labels) + 2 * PAD
    figure = _figure(edge + PANEL + beside, PAD + PANEL + 2 * LINE + 2 * PAD)
    axes = _axes(figure, Box(edge, PAD, PANEL, PANEL))
    axes.plot(x, y, marker=MARKS[0], color=COLOURS[0])
    for place, text in zip(zip(x, y, strict=True), labels, strict=True):
        axes.annotate(text, place, xytext=(6, 4), textcoords="offset points", size=FONT, annotation_clip=False)
    axes.set_xlabel(names[0], size=FONT)
    axes.set_ylabel(names[1], size=FONT)
    return figure


def labelled_panels(panels: Sequence[Panel], names: tuple[str, str], *, title: str = "", log: bool = False) -> "Figure":
    """Panels side by side over one y axis: points that have each a mark and a label, and need no colour.

    Args:
        names: of the x axes and of the y axis, which all share.
        title: above them; the panels' own titles have up to two lines.
        log: the y axis, whose values are then positive, is logarithmic.
    """
    shown = [p for panel in panels for p in panel.y]
    edge = _width([f"{y:.4g}" for y in shown]) + LINE + 3 * PAD
    top = (LINE + PAD) * bool(title) + (2 * LINE) * any(panel.title for panel in panels)
    side = round(PANEL * 0.8)
    width = edge + len(panels) * (side + 2 * PAD) + PAD
    figure = _figure(max(width, round(1.2 * _width([title])) + 2 * PAD), top + PAD + side + 2 * LINE + 2 * PAD)
    for i, panel in enumerate(panels):
        axes = _axes(figure, Box(edge + i * (side + 2 * PAD), top + PAD, side, side))
        _marked(axes, panel)
        _scale_y(axes, shown, log)
        axes.set_xlabel(names[0], size=FONT)
        axes.set_title(_plain_text(panel.title), size=FONT)
        if i:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel(names[1], size=FONT)
    for panel, axes in zip(panels, figure.axes, strict=True):
        _place_labels(axes, panel)
    if title:
        figure.suptitle(_plain_text(title), size=FONT, weight="bold", x=0.5, y=1 - PAD / figure.bbox.height, va="top")
    return figure


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Writes a figure as a PNG: equal figures, equal bytes.

    Raises:
        DataError: the file cannot be written.
    """
    return save_png(figure_png(figure), path)


def figure_png(figure: "Figure") -> bytes:
    """A figure as the content of a PNG: equal figures, equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return png.getvalue()


# Pictures inside figures: pixel by pixel, never resampled.


def _enlarged(images: Tensor, scale: int) -> Tensor:
    return images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def _pixels(images: Tensor) -> Any:
    """Images (R, C, channels, H, W) as one picture, (H', W', 3)."""
    return numpy.asarray(to_picture(grid(images.flatten(0, 1), images.shape[1])).convert("RGB"))


def _centres(count: int, side: int) -> list[float]:
    """Where the images of a grid have their middle, in pixels, whose own middles are the whole numbers."""
    return [GAP + i * (side + GAP) + (side - 1) / 2 for i in range(count)]


def _picture(figure: "Figure", box: Box, pixels: Any) -> "Axes":
    axes = _axes(figure, box)
    axes.imshow(pixels, interpolation="none", aspect="auto")
    return axes


def _plain_text(value: object) -> str:
    # A dollar would begin a formula.
    return str(value).replace("$", r"\$")


def _plain(axes: "Axes") -> None:
    axes.tick_params(length=0, pad=4)
    axes.spines[:].set_visible(False)


# A plane and its edges.


def _large(plane: Plane) -> Tensor:
    rows, columns, _, height, width = plane.images.shape
    return _enlarged(plane.images, math.ceil(PANEL / max(rows * height, columns * width)))


def _show_plane(axes: "Axes", plane: Plane, names: tuple[str, str]) -> None:
    rows, columns, _, height, width = _large(plane).shape
    axes.set_xticks(_centres(columns, width), _sparse(plane.z_0.tolist()))
    axes.set_yticks(_centres(rows, height), _sparse(plane.z_1.flip(0).tolist()))
    _plain(axes)
    axes.set_xlabel(names[0], size=FONT)
    axes.set_ylabel(names[1], size=FONT)


def _sparse(values: Sequence[float]) -> list[str]:
    """The first, the last and the middle ones of the values as labels: more would touch."""
    last = len(values) - 1
    return [f"{v:.1f}" if i in {0, last // 2, last} else "" for i, v in enumerate(values)]


def _frame(axes: "Axes", plane: Plane) -> None:
    from matplotlib.patches import Rectangle

    (left, right), (low, high) = ((float(z.min()), float(z.max())) for z in (plane.z_0, plane.z_1))
    axes.add_patch(Rectangle((left, low), right - left, high - low, fill=False, linestyle="--", linewidth=1))


# Points and their groups.


def _require_few(kinds: Sequence[Any], legend: str) -> None:
    if len(kinds) > MOST_GROUPS and isinstance(kinds[0], str):
        raise DataError(f"{legend!r} has {len(kinds)} different values; a map tells at most {MOST_GROUPS} apart")


def _beside(legend: str, kinds: Sequence[Any]) -> int:
    """Pixels that the legend takes up."""
    return _width([legend, *map(_plain_text, kinds)]) + 7 * PAD if kinds else 2 * PAD


def _scatter(axes: "Axes", points: Any, groups: Sequence[Any], kinds: Sequence[Any], legend: str) -> None:
    # Many points are drawn smaller, so that they cover about the same part of the panel.
    style: dict[str, Any] = {"s": min(30.0, max(6.0, 20_000 / len(points))), "linewidths": 0, "alpha": 0.75}
    if not kinds:
        axes.scatter(points[:, 0], points[:, 1], color=COLOURS[0], **style)
    elif len(kinds) > MOST_GROUPS:
        _colour_bar(axes, axes.scatter(points[:, 0], points[:, 1], c=groups, cmap="viridis", **style), legend)
    else:
        for i, kind in enumerate(kinds):
            members = points[[group == kind for group in groups]]
            _group(
                axes, members, _plain_text(kind), color=COLOURS[i % len(COLOURS)], marker=MARKS[i % len(MARKS)], **style
            )
        _legend(axes, legend)
    axes.set_aspect("equal", adjustable="datalim")


def _group(axes: "Axes", points: Any, name: str, **style: Any) -> None:
    from matplotlib.patheffects import withStroke

    axes.scatter(points[:, 0], points[:, 1], label=name, **style)
    (x, y), outline = numpy.median(points, 0), [withStroke(linewidth=3, foreground="white")]
    axes.text(x, y, name, ha="center", va="center", weight="bold", size=FONT + 2, path_effects=outline)


def _legend(axes: "Axes", title: str) -> None:
    shown = axes.legend(
        title=title, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=FONT, title_fontsize=FONT
    )
    for handle in shown.legend_handles:
        if handle is not None:
            handle.set(sizes=[30], alpha=1.0)


def _colour_bar(axes: "Axes", points: Any, title: str) -> None:
    inset = axes.inset_axes((1.02, 0.0, 0.03, 1.0))
    bar = axes.figure.colorbar(points, cax=inset)
    bar.set_label(title, size=FONT)
    inset.tick_params(labelsize=FONT)


# Points with a mark and a label each.


def _marked(axes: "Axes", panel: Panel) -> None:
    for x, y, mark in zip(panel.x, panel.y, panel.marks, strict=True):
        axes.plot([x], [y], MARKS[mark % len(MARKS)], color="black", markerfacecolor="0.75", markersize=7)
    axes.set_xlim(*_with_margin(panel.x))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)


def _scale_y(axes: "Axes", values: Sequence[float], log: bool) -> None:
    if not log:
        axes.set_ylim(*_with_margin(values))
        return
    low, high = _with_margin([math.log(value) for value in values])
    axes.set_yscale("log")
    axes.set_ylim(math.exp(low), math.exp(high))
    axes.yaxis.set_major_formatter("{x:g}")


def _with_margin(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis on which there is room beside every point."""
    low, high = min(values), max(values)
    margin = 0.2 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _place_labels(axes: "Axes", panel: Panel) -> None:
    """Puts each label beside its point, where it covers no point, no other label and no edge, as far as can be."""
    canvas = _agg(axes)
    points = axes.transData.transform(list(zip(panel.x, panel.y, strict=True)))
    taken = [_around(x, y, PAD) for x, y in points]
    inside = axes.get_window_extent().padded(-PAD / 2)
    for i in numpy.argsort([-y for y in panel.y], kind="stable"):
        text = axes.annotate(
            _plain_text(panel.labels[i]), (panel.x[i], panel.y[i]), xytext=(0, 0), textcoords="offset points", size=FONT
        )
        others = [box for j, box in enumerate(taken) if j != i]
        best = min(_PLACES, key=lambda place: _covered(_put(text, place).get_window_extent(canvas), others, inside))
        taken.append(_put(text, best).get_window_extent(canvas))


# Offsets in points, and which side of the label is there: the first that is free is taken.
_PLACES: tuple[tuple[float, float, str, str], ...] = (
    (7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 7, "center", "bottom"), (0, -7, "center", "top"),
    (6, 6, "left", "bottom"), (-6, 6, "right", "bottom"), (6, -6, "left", "top"), (-6, -6, "right", "top"),
    (6, 16, "left", "bottom"), (-6, 16, "right", "bottom"), (6, -16, "left", "top"), (-6, -16, "right", "top"),
    (6, 28, "left", "bottom"), (-6, 28, "right", "bottom"), (6, -28, "left", "top"), (-6, -28, "right", "top"),
)  # fmt: skip


def _put(text: Any, place: tuple[float, float, str, str]) -> Any:
    x, y, horizontal, vertical = place
    text.set(position=(x, y), ha=horizontal, va=vertical)
    return text


def _covered(box: Any, others: Sequence[Any], inside: Any) -> Any:
    """Pixels of a label that lie on something else, or outside the panel."""
    outside = box.width * box.height - _common(box, inside)
    return sum((_common(box, other) for other in others), outside)


def _common(a: Any, b: Any) -> Any:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


def _around(x: float, y: float, size: float) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox([[x - size / 2, y - size / 2], [x + size / 2, y + size / 2]])


def _agg(axes: "Axes") -> Any:
    """What measures the words of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return FigureCanvasAgg(axes.figure).get_renderer()  # type: ignore[no-untyped-call,arg-type]


# Sizes in pixels.


def _figure(width: int, height: int) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def _axes(figure: "Figure", box: Box) -> "Axes":
    width, height = figure.get_size_inches() * DPI
    bottom = height - box.top - box.height
    axes = figure.add_axes((box.left / width, bottom / height, box.width / width, box.height / height))
    axes.tick_params(labelsize=FONT)
    return axes


def _width(texts: Iterable[str]) -> int:
    """Pixels of the widest text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cbook import is_math_text
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()  # type: ignore[no-untyped-call]
    font = FontProperties(size=FONT)
    sizes = (renderer.get_text_width_height_descent(text, font, ismath=is_math_text(text)) for text in texts if text)
    return math.ceil(max((width for width, *_ in sizes), default=0))
