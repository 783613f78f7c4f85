"""The features that FID is about: those of the original Inception network, from a file that the user has."""

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import ConfigError
from zoo_metrics.extractors.trained import Trained, in_colour

ORIGINAL = "6726825d"  # the first digits of the SHA-256 of pt_inception-2015-12-05-6726825d.pth, as its name says
LAYERS = ["2048", "logits_unbiased"]
FORCED, LIFTED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch's own switches


class InceptionFeatures(Trained):
    """pool3 of Inception-v3 with the weights of 2015, (B, 2048); and logits W h without their bias, (B, 1008).

    GANs trained by a two time-scale update rule … (Heusel et al., 2017) https://arxiv.org/abs/1706.08500
    Improved techniques for training GANs (Salimans et al., 2016) https://arxiv.org/abs/1606.03498

    The network is that of ``torch-fidelity``, which resizes images to 299 x 299 as TensorFlow 1 did, from their 256
    levels. It needs ``pip install torch-fidelity torchvision``, and the file of weights
    ``pt_inception-2015-12-05-6726825d.pth``, from the releases of pytorch-fid on GitHub, or of torch-fidelity under
    the name ``weights-inception-2015-12-05-6726825d.pth``. Values are called FID with that file alone.

    torch-fidelity unpickles the file itself, and would run what is in it. So torch is told meanwhile to take tensors
    and nothing else: a file with anything more is refused.

    Args:
        path: of the file.

    Raises:
        ConfigError: on first use, if a package or the file is missing, or the file is damaged or holds other things.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(os.path.expanduser(path))

    @functools.cached_property
    def weights(self) -> str:
        """The SHA-256 of the file. Raises ConfigError if it cannot be read, or is not what its name says."""
        try:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(
                f"path: {self.path}: {error.strerror or error}; name the file pt_inception-2015-12-05-{ORIGINAL}.pth"
                " from the releases of pytorch-fid"
            ) from None
        named = re.search(r"-([0-9a-f]{8})\.pth$", self.path.name)
        if named and not found.startswith(named[1]):
            raise ConfigError(
                f"path: {self.path} is damaged or renamed: its SHA-256 begins with {found[:8]}, not {named[1]}"
                " as its name says; download it again"
            )
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """As of any extractor, wherever the file lies."""
        return {name: value for name, value in super().identity.items() if name != "path"}

    @property
    def is_fid(self) -> bool:  # type: ignore[override]
        """Whether the file is the original."""
        return self.weights.startswith(ORIGINAL)

    def load(self) -> nn.Module:
        assert self.weights  # the file is there, and whole
        made = network_class()
        try:
            with tensors_alone():
                network: nn.Module = made("inception", LAYERS, feature_extractor_weights_path=str(self.path))
        except Exception as error:  # whatever comes of a strange file
            raise ConfigError(
                f"path: {self.path} does not hold the tensors of torch-fidelity's Inception-v3 and nothing else"
                f" ({type(error).__name__}); name the file pt_inception-2015-12-05-{ORIGINAL}.pth"
            ) from None
        return network

    def forward(self, images: Tensor) -> Tensor:
        return self._layers(images)[0]

    def logits(self, images: Tensor) -> Tensor:
        return self._layers(images)[1]

    def _layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = in_colour(self.label, images).mul(255).round().to(torch.uint8)
        pool3, logits = self.network(levels)
        return pool3, logits


def network_class() -> Any:
    """torch-fidelity's ``FeatureExtractorInceptionV3``.

    Raises:
        ConfigError: naming the packages that it takes.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise ConfigError(
            "extractor 'inception' needs torch-fidelity and a torchvision that fits this torch: pip install"
            f" torch-fidelity torchvision ({str(error).splitlines()[0]})"
        ) from None
    return FeatureExtractorInceptionV3


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Here ``torch.load`` refuses whatever is more than tensors by names, even where its caller asks for all."""
    switches = {FORCED: "1", LIFTED: "0"}
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
