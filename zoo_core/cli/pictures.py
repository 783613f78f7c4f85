"""``zoo sample``, ``zoo reconstruct``: what a model draws."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_core.cli.inputs import Fitting, chosen, load_model
from zoo_core.cli.options import (
    Count,
    DataName,
    Device,
    Enlarge,
    Files,
    Margin,
    ModelName,
    Output,
    Revision,
    Seed,
    Split,
)
from zoo_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def add_to(app: typer.Typer) -> None:
    app.command()(sample)
    app.command()(reconstruct)


def sample(
    model: ModelName,
    number: Count = 64,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="An option of how this model draws: noise=true.")
    ] = None,
    output: Output = Path("samples.png"),
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
    enlarge: Enlarge = 2,
) -> None:
    """Draw samples from a model into a grid.

    Examples: zoo sample vae-mnist -n 64 -o grid.png · zoo sample vae-mnist --set noise=true
    """
    import torch

    from zoo_core.images import grid

    loaded = load_model(model, revision, device)
    drawn = _draw_options(loaded, options or [])
    generator = torch.Generator(device).manual_seed(seed)
    write(grid(loaded.sample(number, generator=generator, **drawn)), output, enlarge)


def reconstruct(
    model: ModelName,
    files: Files = None,
    data: DataName = "digits",
    split: Split = "test",
    number: Count = 16,
    margin: Margin = 0,
    output: Output = Path("reconstructions.png"),
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
    enlarge: Enlarge = 2,
) -> None:
    """Encode and decode images: inputs above, reconstructions below.

    Examples: zoo reconstruct vae-mnist · zoo reconstruct vae-mnist a.png b.png
    """
    import torch

    from zoo_core.images import grid

    loaded = load_model(model, revision, device)
    if not hasattr(loaded, "reconstruct"):
        raise ConfigError(f"{model!r} is a {type(loaded).__name__}, which reconstructs nothing: it only draws")
    batch = Fitting(loaded, device, margin).shown(chosen(files, data, split, number, seed))
    x = batch["image"]
    with torch.no_grad():
        rows = torch.cat([x, loaded.given(batch).reconstruct(x)])
    write(grid(rows, len(x)), output, enlarge)


def write(image: "Tensor", output: Path, enlarge: int) -> None:
    from zoo_core.images import save_image

    print(save_image(image, output, enlarge=enlarge))


def _draw_options(model: Any, given: list[str]) -> dict[str, Any]:
    """The arguments of the model's ``draw`` but n, from KEY=VALUE.

    Raises:
        ConfigError: there is no such option, its value is not allowed, or one is missing that has no default.
    """
    from zoo_core.arguments import parameters

    known = {name: p for name, p in parameters(type(model).draw).items() if name not in ("self", "n")}
    options = dict(_draw_option(model, text, known) for text in given)
    for name, parameter in known.items():
        if parameter.required and name not in options:
            raise ConfigError(f"--set: {type(model).__name__} draws given {name}; add --set {name}=VALUE")
    return options


def _draw_option(model: Any, text: str, known: dict[str, Any]) -> tuple[str, Any]:
    from zoo_core.arguments import checked
    from zoo_core.training.reading import parse_yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: must be KEY=VALUE")
    if name not in known:
        there_are = f"its options are: {', '.join(known)}" if known else "it has no options"
        raise ConfigError(f"--set {name}: {type(model).__name__} draws with no such option; {there_are}")
    return name, checked(parse_yaml(value, f"--set {name}"), known[name].annotation, f"--set {name}")
