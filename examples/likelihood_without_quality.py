"""A log-likelihood says little about samples: 99 parts of noise cost a model at most 4.6 nats.

A Chow-Liu tree is fitted to binarised digits. Of it and of fair coins a mixture is made, 0.01 to 0.99:
log p(x) >= log 0.01 + log p_tree(x) for every x, yet 99 of 100 samples are noise.
A note on the evaluation of generative models (Theis et al., 2016) https://arxiv.org/abs/1511.01844

    python examples/likelihood_without_quality.py -o samples.png
"""

import math
from argparse import ArgumentParser
from pathlib import Path

import torch
from torch import Tensor

from zoo_core import GenerativeModel, build
from zoo_core.data import Preprocessing, load
from zoo_core.images import grid, save_image

SHARE = 0.01


class Coins(GenerativeModel):
    """Every pixel 0 or 1 with probability 1/2."""

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *self.data_shape).round()

    def log_prob(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), -math.prod(self.data_shape) * math.log(2), dtype=torch.float64)


class Mixture(GenerativeModel):
    """p(x) = share p_0(x) + (1 - share) p_1(x)."""

    def __init__(self, p_0: GenerativeModel, p_1: GenerativeModel, share: float) -> None:
        super().__init__()
        self.p_0, self.p_1, self.share, self.data_shape = p_0, p_1, share, p_0.data_shape

    def draw(self, n: int) -> Tensor:
        from_0 = (torch.rand(n) < self.share).view(-1, *[1] * len(self.data_shape))
        return torch.where(from_0, self.p_0.draw(n), self.p_1.draw(n))

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.logaddexp(
            math.log(self.share) + self.p_0.log_prob(x), math.log1p(-self.share) + self.p_1.log_prob(x)
        )


def digits(split: str) -> Tensor:
    """Handwritten digits of 8 x 8 pixels that are 0 or 1, (N, 1, 8, 8)."""
    data = load("digits", split)
    x: Tensor = Preprocessing(binarize="threshold")(data.batch(torch.arange(len(data))))["image"]
    return x


def fitted_tree(x: Tensor) -> GenerativeModel:
    tree: GenerativeModel = build("classical/chow_liu", "model", data_shape=tuple(x.shape[1:]))
    tree.begin(x)
    tree.update(tree.statistics(x))
    return tree


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("likelihood_without_quality.png"))
    output = parser.parse_args().output
    tree, held_out = fitted_tree(digits("train")), digits("test")
    coins = Coins(tree.data_shape)
    rows = []
    for name, model in {"tree": tree, "mixture": Mixture(tree, coins, SHARE), "noise": coins}.items():
        log_p = model.log_prob(held_out).mean()
        print(f"{name:8} {log_p:8.2f} nats on held-out digits")
        rows.append(model.sample(16, generator=torch.Generator().manual_seed(0)))
    print(f"the mixture loses at most {-math.log(SHARE):.2f} nats; 16 samples of each, row by row: {output}")
    save_image(grid(torch.cat(rows), 16), output, enlarge=4)


if __name__ == "__main__":
    main()
