"""Images as they are."""

from torch import Tensor

from zoo_core import Extractor


class Pixels(Extractor):
    """The values of an image in [0, 1] in one row, (B, C H W): features without a network.

    Distances between them are those of mean squared error: a shift by a pixel counts as much as another picture.
    """

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)
