"""The nearest centre by matrix products, against distances in float64."""

import pytest
import torch
from torch import Tensor
from zoo_classical.nearest import Nearest

CASES = {
    "digits of noise": lambda: (torch.rand(700, 64), torch.rand(30, 64)),
    "far from the origin": lambda: (1e4 + torch.rand(300, 20), 1e4 + torch.rand(9, 20)),
    "on the centres": lambda: (torch.rand(40, 5).repeat(3, 1), torch.rand(40, 5)),
    "integers, with many ties": lambda: (torch.randint(3, (500, 3)).float(), torch.randint(3, (20, 3)).float()),
    "nearly equal centres": lambda: (torch.rand(300, 50), torch.rand(50) + 1e-7 * torch.rand(8, 50)),
    "equal centres": lambda: (torch.rand(50, 4), torch.rand(4).repeat(6, 1)),
    "one centre": lambda: (torch.rand(10, 3), torch.rand(1, 3)),
    "one dimension": lambda: (torch.randn(400, 1), torch.randn(7, 1)),
    "too large for float32": lambda: (1e25 * torch.rand(100, 6), 1e25 * torch.rand(5, 6)),
    "too small for float32": lambda: (1e-25 * torch.rand(100, 6), 1e-25 * torch.rand(5, 6)),
    "an outlier": lambda: (torch.cat([torch.rand(50, 6), torch.full((1, 6), 1e6)]), torch.rand(5, 6)),
    "in double precision": lambda: (torch.rand(300, 9).double(), torch.rand(12, 9)),
}
every_case = pytest.mark.parametrize("name", CASES)


def exact(x: Tensor, mu: Tensor) -> Tensor:
    return torch.cdist(x.double(), mu, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


@every_case
def test_it_is_that_of_the_exact_distances(name: str) -> None:
    x, mu = CASES[name]()
    mu = mu.double()
    nearest = Nearest(mu)
    assert torch.equal(nearest(x), exact(x, mu))
    assert torch.equal(torch.cat([nearest(part) for part in x.split(7)]), exact(x, mu))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_case
def test_rounding_stays_within_its_bound(name: str, dtype: torch.dtype) -> None:
    """Of the scores in either precision, against differences squared in float64 up to what all share."""
    x, mu = (rows.double() for rows in CASES[name]())
    nearest = Nearest(mu)
    scores = torch.addmm(nearest.b.to(dtype), nearest.m2.to(dtype), x.to(dtype).T).double()
    c = mu.mean(0)
    # ||x - mu||^2 - ||x - c||^2 as a product: the differences of squares would lose what is to be seen.
    true = torch.einsum("kd,bkd->kb", mu - c, (mu + c) - 2 * x[:, None])
    # The truth has its own rounding, which the bound of float64 covers once more.
    bound = nearest.rounding(x.to(dtype)).double() + nearest.rounding(x)
    assert (((scores - true).abs() <= bound) | bound.isinf()).all()


def test_hardly_any_row_of_pictures_needs_float64(digits: Tensor) -> None:
    x = digits.flatten(1)
    nearest = Nearest(x[::30].double() + 0.01)
    unsure = nearest.scored(x, *nearest.single)[1]
    assert len(unsure) < 0.02 * len(x)


def test_reduced_precision_of_products_changes_nothing() -> None:
    x, mu = torch.rand(200, 30), torch.rand(10, 30).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Nearest(mu)(x), exact(x, mu))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(Nearest(mu)(x), exact(x, mu))
    finally:
        torch.set_float32_matmul_precision(before)
