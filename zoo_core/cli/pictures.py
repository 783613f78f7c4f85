"""``zoo sample``, ``zoo reconstruct``, ``zoo interpolate``: what a model draws."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_core.errors import ConfigError, DataError
from zoo_core.host import default_host

if TYPE_CHECKING:
    from torch import Tensor


def complete_checkpoint(start: str) -> list[str]:
    return [r.spec.name for r in default_host().registrations("checkpoint") if r.spec.name.startswith(start)]


ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A folder, vae-mnist, or org/name.", autocompletion=complete_checkpoint),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")]
Files = Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Image files; default --data.")]
DataName = Annotated[str, typer.Option("--data", help="A data set to take images from: digits, shapes, org/name, …")]
Split = Annotated[str, typer.Option(help="Its split.")]
Count = Annotated[int, typer.Option("--number", "-n", min=1, help="How many images.")]
Seed = Annotated[int, typer.Option(help="Equal seeds draw equal pictures.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Margin = Annotated[int, typer.Option(min=0, help="Black pixels around each image, inside the model's size.")]
Enlarge = Annotated[int, typer.Option(min=1, help="Side of a pixel in the PNG.")]


def add_to(app: typer.Typer) -> None:
    for command in (sample, reconstruct, interpolate):
        app.command()(command)


def sample(
    model: ModelName,
    number: Count = 64,
    output: Output = Path("samples.png"),
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
    enlarge: Enlarge = 2,
) -> None:
    """Draw samples from a model into a grid.

    Example: zoo sample vae-mnist -n 64 -o grid.png
    """
    import torch

    from zoo_core.images import grid

    loaded = _load(model, revision, device)
    generator = torch.Generator(device).manual_seed(seed)
    _write(grid(loaded.sample(number, generator=generator)), output, enlarge)


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

    loaded = _load_latent(model, revision, device)
    x = _fitted(loaded, _images(files, data, split, number, seed), margin)
    with torch.no_grad():
        rows = torch.cat([x, loaded.reconstruct(x)])
    _write(grid(rows, len(x)), output, enlarge)


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
    loaded = _load_latent(model, revision, device)
    x = _fitted(loaded, _images(files, data, split, 8, seed), margin)
    strips = latents.interpolate(loaded, x[::2], x[1::2], steps, path=path)
    _write(grid(strips.transpose(0, 1).flatten(0, 1), steps), output, enlarge)


def _load(model: str, revision: str | None, device: str) -> Any:
    from zoo_core.pretrained import from_pretrained

    return from_pretrained(model, revision=revision, device=device)


def _load_latent(model: str, revision: str | None, device: str) -> Any:
    from zoo_core.components import LatentVariableModel

    loaded = _load(model, revision, device)
    if not isinstance(loaded, LatentVariableModel):
        raise ConfigError(f"{model!r} is a {type(loaded).__name__}, which has no encoder")
    return loaded


def _images(files: list[Path] | None, data: str, split: str, number: int, seed: int) -> "list[Tensor]":
    """Stored images, uint8 (C, H, W): those of the files, else some of a data set."""
    import torch

    from zoo_core.data import load
    from zoo_core.images import read_images

    if files:
        return read_images(files)
    dataset = load(data, split)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:number]
    return list(torch.as_tensor(dataset.batch(chosen)["image"]))


def _fitted(model: Any, images: "list[Tensor]", margin: int) -> "Tensor":
    """Images of the size that the model takes, (N, *data_shape); never binarised: pictures are for people."""
    import torch

    from zoo_core.data import Preprocessing

    if len(model.data_shape) != 3:
        raise DataError(f"the model takes data of shape {model.data_shape}, which are no images")
    channels, height, width = model.data_shape
    if 2 * margin >= min(height, width):
        raise ConfigError(f"--margin: {margin} leaves nothing of images of {height}x{width}")
    fit = Preprocessing(image_size=(height - 2 * margin, width - 2 * margin), channels=channels)
    x = torch.cat([torch.as_tensor(fit({"image": image[None]})["image"]) for image in images])
    return torch.nn.functional.pad(x, [margin] * 4).to(next(model.parameters()).device)


def _write(image: "Tensor", output: Path, enlarge: int) -> None:
    from zoo_core.images import save_image

    print(save_image(image, output, enlarge=enlarge))
