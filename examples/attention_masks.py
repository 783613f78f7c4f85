"""The attention masks of the DALL-E paper, drawn: who looks at whom in a stream of text and image tokens.

    $ python examples/attention_masks.py masks.png

Each picture is a mask of 8 text tokens and a grid of 16 x 16 image tokens in raster order: a row is a token that looks,
bright where it may. Below each, what the brightest image token sees of its grid.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from zoo_dalle.masks import GRIDS, Layout, stream_mask

TEXT, SIDE = 8, 16
TOKEN = 9 * SIDE + 8
LOOKING = 2.0


def main(path: Path) -> None:
    figure, axes = plt.subplots(2, len(GRIDS), figsize=(11, 5.6), height_ratios=(2, 1), layout="constrained")
    for (whole, grid), kind in zip(axes.T, GRIDS, strict=True):
        mask = stream_mask(kind, Layout(TEXT, SIDE, SIDE)).float()
        whole.imshow(mask, cmap="magma", vmax=LOOKING)
        whole.axvline(TEXT - 0.5, color="white", linewidth=0.5)
        whole.axhline(TEXT - 0.5, color="white", linewidth=0.5)
        whole.set_title(kind)
        seen = mask[TEXT + TOKEN, TEXT:].clone()
        seen[TOKEN] = LOOKING
        grid.imshow(seen.view(SIDE, SIDE), cmap="magma", vmin=0, vmax=LOOKING)
        for axis in (whole, grid):
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "masks.png"))
