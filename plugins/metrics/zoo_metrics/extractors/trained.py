"""Extractors with a trained network, which is loaded when it is first asked for."""

import abc
import functools
import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import ConfigError, Extractor


class Trained(Extractor):
    """Features of a trained network, which no training moves.

    A config that names one can be built and described where its weights are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: nn.Module | None = None

    @abc.abstractmethod
    def load(self) -> nn.Module:
        """The network with its weights.

        Raises:
            ConfigError, CheckpointError: it cannot be had, with what to do.
        """

    @property
    def network(self) -> Any:
        """What ``load`` gave, frozen and in evaluation mode."""
        if self._network is None:
            self._network = self.load().requires_grad_(False).eval()
        return self._network

    @functools.cached_property
    def weights(self) -> str:
        """The SHA-256 of all of the network's tensors, by their names."""
        return sha256_of(self.network)


def sha256_of(network: nn.Module) -> str:
    """In hex, of the names, dtypes, shapes and bytes of a network's tensors, wherever these lie."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def in_colour(label: str, images: Tensor) -> Tensor:
    """Images (B, 3, H, W), grey ones in three equal channels.

    Raises:
        ConfigError: they have neither one channel nor three.
    """
    if images.shape[1] not in (1, 3):
        raise ConfigError(
            f"extractor {label!r} sees grey or colour images, these are {tuple(images.shape[1:])}; use another, such as"
            " pixels"
        )
    return images.expand(-1, 3, -1, -1)
