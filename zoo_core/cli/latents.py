"""``zoo interpolate``, ``zoo attribute``, ``zoo traverse``, ``zoo map``: movements in latent space, and maps of it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_core.cli.inputs import Chunks, Fitting, chosen, column, from_files, load_model, own_dataset, some
from zoo_core.cli.options import (
    Count,
    DataName,
    Device,
    Enlarge,
    EnlargeToFit,
    Files,
    Margin,
    ModelName,
    Output,
    OwnData,
    OwnSplit,
    Revision,
    Seed,
    Split,
)
from zoo_core.cli.pictures import write
from zoo_core.errors import ConfigError

if TYPE_CHECKING:
    from zoo_core.figures import Plane

MOST_STRENGTHS = 100


def add_to(app: typer.Typer) -> None:
    for command in (interpolate, attribute, traverse):
        app.command()(command)
    app.command("map")(map_latents)


def interpolate(
    model: ModelName,
    files: Files = None,
    data: DataName = "digits",
    split: Split = "test",
    steps: Annotated[int, typer.Option(min=2, help="Pictures from one end to the other.")] = 9,
    path: Annotated[str, typer.Option(help="spherical or linear.")] = "spherical",
    margin: Margin = 0,
    output: Output = Path("interpolation.png"),
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
    enlarge: Enlarge = 2,
) -> None:
    """Walk between two images in latent space: a strip of pictures. Without files, four pairs of a data set.

    Examples: zoo interpolate vae-mnist a.png b.png · zoo interpolate vae-mnist --data digits --steps 12
    """
    from zoo_core import latents
    from zoo_core.images import grid

    if path not in ("spherical", "linear"):
        raise ConfigError(f"--path: must be 'spherical' or 'linear', got {path!r}")
    if files and len(files) != 2:
        raise ConfigError(f"interpolate takes two images, got {len(files)}")
    loaded = load_model(model, revision, device)
    x = Fitting(loaded, device, margin).shown(chosen(files, data, split, 8, seed))["image"]
    strips = latents.interpolate(loaded, x[::2], x[1::2], steps, path=path)
    write(grid(strips.transpose(0, 1).flatten(0, 1), steps), output, enlarge)


def attribute(
    model: ModelName,
    plus: Annotated[str, typer.Option(help="Images with the attribute: label=3, or a folder.")],
    files: Files = None,
    minus: Annotated[
        str | None, typer.Option(help="Images without it: label=8, or a folder; default all others.")
    ] = None,
    strength: Annotated[
        str, typer.Option(help="How often the direction is added: -2..2, -1..1..0.5 or 0,1,3.")
    ] = "-2..2",
    data: OwnData = None,
    split: OwnSplit = None,
    attribute_split: Annotated[
        str | None, typer.Option(help="The split that the direction is taken from; default the recipe's for training.")
    ] = None,
    examples: Annotated[int, typer.Option(min=2, help="Take the direction from at most so many.")] = 10_000,
    number: Count = 8,
    margin: Margin = 0,
    output: Output = Path("attribute.png"),
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
    enlarge: EnlargeToFit = None,
) -> None:
    """Add an attribute to images, and take it away: z' = z + s Delta, Delta = mean(z+) - mean(z-).

    The images are those named, else some of --minus.

    Examples: zoo attribute vae-mnist --plus label=3 --minus label=8 ·
    zoo attribute vae-mnist face.png --plus smiling/ --minus serious/ --strength 0..2..0.5
    """
    import torch

    from zoo_core import latents
    from zoo_core.cli.attributes import ByColumn, parse_sides, sides_by_column, sides_by_folder
    from zoo_core.figures import labelled_grid, save_figure

    s, by = strengths(strength), parse_sides(plus, minus)
    loaded = load_model(model, revision, device)
    fit = Fitting(loaded, device, margin)
    with _seeded(seed):
        if isinstance(by, ByColumn):
            dataset = own_dataset(loaded, data, attribute_split, field="split", default="train")
            held_out = own_dataset(loaded, data, split)
            sides = sides_by_column(by, dataset, held_out, fit, examples=examples, number=number, seed=seed)
        else:
            sides = sides_by_folder(*by, fit, number=number)
        batch = fit.shown(from_files(files) if files else sides.shown())
        x, given = batch["image"], loaded.given(batch)
        delta = latents.attribute_direction(loaded, sides.plus, sides.minus)
        with torch.no_grad():
            moved = given.decode(latents.shift(latents.encode(given, x), delta, s))
    pictures = torch.cat([x[None].to(moved), moved]).transpose(0, 1)
    header = ["$x$", *(f"{value:+g}" if value else "0" for value in s)]
    caption = f"$s$ in $z + s\\,\\Delta$, from {_told(minus) if minus else 'all others'} to {_told(plus)}"
    print(save_figure(labelled_grid(pictures, [""] * len(x), header, caption=caption, enlarge=enlarge), output))


def traverse(
    model: ModelName,
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="An image file; default one of --data.")] = None,
    data: OwnData = None,
    split: OwnSplit = None,
    dimensions: Annotated[int, typer.Option(min=1, help="How many latent dimensions, the most relevant first.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Values of each.")] = 9,
    reach: Annotated[float, typer.Option("--range", help="The largest, in standard deviations of the prior.")] = 3.0,
    start: Annotated[
        str, typer.Option("--from", help="What the other dimensions keep: those of an 'image', or of the 'prior' mean.")
    ] = "image",
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Images that the KL is averaged over.")] = 1000,
    margin: Margin = 0,
    output: Output = Path("traversal.png"),
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
    enlarge: EnlargeToFit = None,
) -> None:
    """Change one latent dimension at a time: a row for each, ordered by its KL(q(z_j|x) || p(z_j)).

    Where a model has no such KL, rows are ordered by the variance of the codes over the images; where its codes
    do not follow a prior, steps are in standard deviations of the codes. The picture says so.

    Examples: zoo traverse vae-mnist -o rows.png · zoo traverse vae-mnist seven.png --dimensions 4 --from image ·
    zoo traverse vae-mnist --from prior --range 2
    """
    import torch

    from zoo_core import latents
    from zoo_core.figures import labelled_grid, save_figure

    _require_start(start, image, reach)
    loaded = load_model(model, revision, device)
    fit = Fitting(loaded, device, margin)
    dataset = own_dataset(loaded, data, split)
    places = some(dataset, number, seed)
    x = Chunks(places, dataset.batch, fit.trained)
    with _seeded(seed), torch.no_grad():
        relevance = latents.relevance(loaded, x)
        reference = latents.reference(loaded, x)
        mean, sigma = latents.moments(reference.p)
        one = fit.shown(from_files([image]) if image else dataset.batch(places[:1]))
        given = loaded.given(one)
        z = latents.encode(given, one["image"]) if start == "image" else mean[None]
    values, order = relevance.values.flatten().sort(descending=True, stable=True)
    order, offsets = order[:dimensions], torch.linspace(-reach, reach, steps).to(sigma)
    at = mean.flatten()[order, None] + sigma.flatten()[order, None] * offsets
    pictures = latents.traverse(given, z, order, at)[:, :, 0]
    rows = [_row(int(j), float(value), relevance.measure) for j, value in zip(order, values, strict=False)]
    header = [f"{round(value, 2) + 0:g}" for value in offsets.tolist()]  # + 0 takes the sign off -0
    caption = f"$z_j$ in standard deviations of {reference.of}"
    print(save_figure(labelled_grid(pictures, rows, header, caption=caption, enlarge=enlarge), output))


def _require_start(start: str, image: Path | None, reach: float) -> None:
    if start not in ("image", "prior"):
        raise ConfigError(f"--from: must be 'image' or 'prior', got {start!r}")
    if image and start == "prior":
        raise ConfigError("--from prior takes no image; leave one of them out")
    if not 0 < reach < float("inf"):
        raise ConfigError(f"--range: must be a number above 0, got {reach:g}")


def _row(j: int, value: float, measure: str) -> str:
    return f"$z_{{{j}}}$  {measure} {value:.2f}" + " nats" * (measure == "KL")


def map_latents(
    model: ModelName,
    data: OwnData = None,
    split: OwnSplit = None,
    by: Annotated[
        str | None, typer.Option(help="The column that colours the points; default label, where there is one.")
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=2, help="How many images are encoded.")] = 2000,
    steps: Annotated[int, typer.Option(min=2, help="Pictures on each side of the plane of two latents.")] = 13,
    margin: Margin = 0,
    output: Output = Path("map.png"),
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
) -> None:
    """Map held-out images in latent space, coloured by label.

    A model with two latents also shows what it decodes at the quantiles of its prior; one with more is shown on
    the first two principal components of its codes, whose shares of the variance are on the axes.

    Examples: zoo map vae-mnist -o map.png · zoo map runs/shapes/model --data shapes --by colour_1
    """
    from zoo_core import latents
    from zoo_core.figures import latent_map, save_figure

    loaded = load_model(model, revision, device)
    dataset = own_dataset(loaded, data, split)
    places = some(dataset, number, seed)
    by = by or ("label" if "label" in dataset.columns else None)
    groups = column(dataset, places, by) if by else []
    x = Chunks(places, dataset.batch, Fitting(loaded, device, margin).trained)
    with _seeded(seed):
        z = latents.codes(loaded, x)
        plane = _plane(loaded, x, steps) if z[0].numel() == 2 else None
    if plane:
        points, names = z.flatten(1), ("$z_0$", "$z_1$")
    else:
        points, shares = latents.principal_components(z)
        first, second = (f"principal component {i} ({share:.1%} of the variance)" for i, share in enumerate(shares, 1))
        names = first, second
    print(save_figure(latent_map(points, names, groups=groups, legend=by or "", plane=plane), output))


def _plane(model: Any, x: Chunks, steps: int) -> "Plane":
    """Decoded at the quantiles (i + 1/2) / steps of p(z), or of the codes where they do not follow it."""
    import torch

    from zoo_core import latents
    from zoo_core.figures import Plane

    p = latents.reference(model, x).p
    levels = (torch.arange(steps) + 0.5) / steps
    z_0, z_1 = latents.quantiles(p, levels.to(latents.moments(p)[0])).flatten(1).unbind(1)
    return Plane(latents.manifold(model, z_0, z_1), z_0, z_1)


def _told(side: str) -> str:
    # A dollar would begin a formula.
    return (Path(side).name or side).replace("$", r"\$")


def _seeded(seed: int) -> Any:
    """A context in which torch draws what follows from the seed."""
    import torch

    from zoo_core.randomness import drawing_from

    return drawing_from(torch.Generator().manual_seed(seed))


def strengths(text: str) -> list[float]:
    """``-2..2`` in whole steps, ``-1..1..0.5`` in steps of a half, or ``0,1,3``.

    Raises:
        ConfigError: it is none of these, or too many.
    """
    numbers = re.split(r"\.\.|,", text)
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if ".." in text and "," not in text and len(values) in (2, 3):
        values = _stepped(*values)
    elif ".." in text:
        values = []
    if not 0 < len(values) <= MOST_STRENGTHS or not all(abs(value) < float("inf") for value in values):
        raise ConfigError(
            f"--strength: must be a range such as -2..2 or 0..2..0.5, or a list such as 0,1,3; got {text!r}"
        )
    return values


def _stepped(first: float, last: float, step: float = 1.0) -> list[float]:
    # Half a step beyond: 0..0.3..0.1 has four values, whatever rounding makes of the last.
    if not (0 < step < float("inf") and 0 <= (last - first) / step < MOST_STRENGTHS):
        return []
    return [round(first + i * step, 10) for i in range(int((last - first) / step + 0.5) + 1)]
