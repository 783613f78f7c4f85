"""Paths through latent space whose pictures move in a known way."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, Uniform
from zoo_metrics.geometry.codes import lerp, slerp
from zoo_metrics.geometry.smoothness import InterpolationSmoothness, path_length, step_variation

from tests.registered import coded_model
from zoo_core import ConfigError, Extractor, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import InMemory

DATA, LATENT = (1, 4, 5), (3,)
LENGTH, VARIATION = "path_length (pixels)", "step_variation (pixels)"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def orthonormal(c: float = 1.0) -> Tensor:
    """W (20, 3) with W' W = c^2 I."""
    return c * torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64)).Q


class Linear(GenerativeModel):
    """g(z) = W z + 1/2, or what is made of it."""

    data_shape, latent_shape = DATA, LATENT

    def __init__(self, W: Tensor, after: Any = torch.clone, prior: Any = None) -> None:
        super().__init__()
        self.W, self.after = W, after
        zero = torch.zeros(LATENT, dtype=W.dtype)
        self.p = prior or Independent(Normal(zero, 1.0), 1)

    def prior(self) -> Any:
        return self.p

    def decode(self, z: Tensor) -> Tensor:
        return self.after(z @ self.W.T + 0.5).unflatten(-1, DATA)

    def draw(self, n: int) -> Tensor:
        return self.decode(self.p.sample(torch.Size((n,))))


class Nothing(GenerativeModel):
    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


def measured(model: Any, n: int = 50, **arguments: Any) -> dict[str, Measurement]:
    metric = InterpolationSmoothness(**arguments)
    metric.update(model, {"image": torch.zeros(n, *DATA)})
    return metric.compute()


# the values


@pytest.mark.parametrize("c", [0.1, 2.0])
def test_a_linear_decoder_moves_evenly_along_a_straight_line(c: float) -> None:
    """By || W (z_1 - z_0) ||^2 = c^2 || z_1 - z_0 ||^2, which is 2 c^2 D on average, at one speed."""
    values = measured(Linear(orthonormal(c)), n=4000, path="lerp")
    assert list(values) == [LENGTH, VARIATION]
    assert abs(values[LENGTH].value - 2 * c**2 * 3) < 5 * values[LENGTH].error
    assert values[LENGTH].error == pytest.approx(2 * c**2 * math.sqrt(2 * 3 / 4000), rel=0.15)
    assert values[VARIATION].value == pytest.approx(0, abs=1e-6)
    assert values[LENGTH].n == values[VARIATION].n == 4000
    assert values[LENGTH].about == {"path": "lerp", "eps": 1e-4, "steps": 16}


def test_on_a_sphere_the_arc_is_even_too() -> None:
    """Of ends of one length, by the square of angle times radius."""
    z_0, z_1 = torch.tensor([[2.0, 0, 0]]).double(), torch.tensor([[0, 2.0, 0]]).double()
    W = orthonormal()

    def f(t: Tensor) -> Tensor:
        return slerp(z_0, z_1, t) @ W.T

    assert path_length(f, 1, 1e-5).item() == pytest.approx((2 * math.pi / 2) ** 2, rel=1e-6)
    assert step_variation(f, 1, 16).item() == pytest.approx(0, abs=1e-7)
    # The straight line between them is as even, and shorter.
    assert path_length(lambda t: lerp(z_0, z_1, t), 1, 1e-5).item() == pytest.approx(8, rel=1e-6)


def test_uneven_steps_have_the_variation_of_their_lengths() -> None:
    """f(t) = t^2: steps of 1, 3, 5, 7 sixteenths; and its speed 2 t squared is 4/3 on average."""
    f = lambda t: t.unsqueeze(1).square()  # noqa: E731
    assert step_variation(f, 1, 4).item() == pytest.approx(math.sqrt(5) / 4)
    assert path_length(f, 100_000, 1e-4).mean().item() == pytest.approx(4 / 3, rel=0.02)


def test_a_jump_varies_most() -> None:
    """One step of S that changes anything: sd / mean = sqrt(S - 1)."""
    f = lambda t: (t.unsqueeze(1) > 0.33).double()  # noqa: E731
    assert step_variation(f, 2, 16).tolist() == pytest.approx([math.sqrt(15)] * 2)


def test_a_path_that_changes_nothing_does_not_vary() -> None:
    assert step_variation(lambda t: torch.ones(len(t), 2).double(), 3, 5).tolist() == [0, 0, 0]


def test_small_differences_are_not_those_of_levels() -> None:
    """Rounded to 256 levels, 1e-4 of the way is nothing, or a whole level."""
    W = orthonormal(0.05)
    exact, rounded = (measured(Linear(W, after), n=2000) for after in (torch.clone, lambda x: (x * 255).round() / 255))
    assert rounded[LENGTH].value > 10 * exact[LENGTH].value
    assert rounded[VARIATION].value > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_linear_decoder_moves_by_what_the_arc_turns_and_grows(dtype: torch.dtype) -> None:
    """|| z'(t) ||^2 = (r_1 - r_0)^2 + w^2 r(t)^2, for which other draws of the prior serve as well."""
    zero = torch.zeros(3, dtype=dtype)
    value = measured(Linear(orthonormal(0.1).to(dtype), prior=Independent(Normal(zero, 1.0), 1)), n=4000)[LENGTH]
    a, b = torch.randn(2, 100_000, 3, dtype=torch.float64)
    r, s, w = a.norm(dim=1), b.norm(dim=1), torch.cosine_similarity(a, b).acos()
    expected = (r - s).square() + w.square() * (r.square() + r * s + s.square()) / 3
    assert abs(value.value - 0.1**2 * expected.mean().item()) < 5 * value.error
    assert value.error < 0.002


def test_float32_is_enough() -> None:
    model = build(parts(), data_shape=DATA)
    values = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(7)
        z = [torch.randn(50, 2).to(dtype) for _ in range(2)]
        model = model.to(dtype)

        def f(t: Tensor, z: Any = z, model: Any = model) -> Tensor:
            return model.decode(slerp(*z, t)).detach().flatten(1).double()

        values.append(path_length(f, 50, 1e-4).mean().item())
    assert values[0] == pytest.approx(values[1], rel=0.02)


# paths


def test_a_slerp_has_its_ends_and_turns_and_grows_evenly() -> None:
    z_0, z_1 = torch.randn(5, 2, 3, dtype=torch.float64), 3 * torch.randn(5, 2, 3, dtype=torch.float64)
    angle = lambda a, b: torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1).acos()  # noqa: E731
    length = lambda z: z.flatten(1).norm(dim=1)  # noqa: E731
    for t in (0.0, 0.3, 1.0):
        z = slerp(z_0, z_1, torch.full((5,), t).double())
        torch.testing.assert_close(length(z), (1 - t) * length(z_0) + t * length(z_1))
        torch.testing.assert_close(angle(z_0, z), t * angle(z_0, z_1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(angle(z, z_1), (1 - t) * angle(z_0, z_1), rtol=1e-6, atol=1e-6)


def test_almost_opposite_ends_do_not_lead_astray() -> None:
    z = torch.randn(50, 3, dtype=torch.float64)
    middle = slerp(z, -2 * z + 1e-3 * torch.randn_like(z), torch.full((50,), 0.5).double())
    torch.testing.assert_close(middle.norm(dim=1), 1.5 * z.norm(dim=1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0])
def test_without_an_arc_it_is_a_straight_line(factor: float) -> None:
    z, t = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(slerp(z, factor * z, t), lerp(z, factor * z, t))


# how it is measured


def parts() -> dict[str, Any]:
    encoder = {"type": "nets/mlp_encoder", "latents": 2, "hidden": [8]}
    return {"type": "vae/vae", "encoder": encoder, "decoder": "nets/mlp_decoder", "prior": "nets/standard_normal"}


class Doubled(Extractor):
    """Twice the pixels; what it is given it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    @property
    def weights(self) -> str:
        return "abc"

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(images)
        return 2 * images.flatten(1)


def test_features_are_of_the_decoded_numbers_themselves() -> None:
    W, extractor = orthonormal(0.05), Doubled().train()
    torch.manual_seed(1)
    pixels = measured(Linear(W))
    torch.manual_seed(1)
    values = measured(Linear(W), extractor=extractor)
    assert list(values) == ["path_length (Doubled)", "step_variation (Doubled)"]
    assert values["path_length (Doubled)"].value == pytest.approx(4 * pixels[LENGTH].value, rel=1e-2)
    assert values["step_variation (Doubled)"].value == pytest.approx(pixels[VARIATION].value, rel=1e-2)
    about = values["path_length (Doubled)"].about
    assert about == {"path": "slerp", "eps": 1e-4, "steps": 16, "extractor": "Doubled", "weights": "abc"}
    levels = extractor.seen[0] * 255
    assert (levels - levels.round()).abs().max() > 0.1


def test_it_takes_part_in_an_evaluation_by_name() -> None:
    data = InMemory("random", "test", {"image": torch.zeros(130, *DATA, dtype=torch.uint8)})
    model = build(parts(), data_shape=DATA)
    metric = build({"type": "metrics/interpolation_smoothness", "steps": 4})
    first, again = (evaluate(model, [metric], data, batch=50) for _ in range(2))
    assert first == again
    assert first[LENGTH].value > 0
    assert first[VARIATION].value > 0
    assert first[LENGTH][2:5] == (130, "1", "lower")
    assert not any(v.requires_grad for v in metric.state.values())


def test_latents_of_a_grid_are_paths_too() -> None:
    encoder = {"type": "nets/conv_encoder", "latents": 2, "channels": [3], "layout": "grid"}
    grid = {"type": "vae/vae", "encoder": encoder, "decoder": {"type": "nets/conv_decoder", "channels": [3]}}
    model = build({**grid, "prior": "nets/standard_normal"}, data_shape=(1, 8, 8))
    assert measured(model, n=5)[LENGTH].value > 0


def test_nothing_is_nothing() -> None:
    assert InterpolationSmoothness().compute() == {}


# what is refused


def test_a_decoder_that_does_not_look_at_z_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'interpolation_smoothness': no picture changes along its path"):
        measured(Linear(0 * orthonormal()))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Nothing(), "needs a model that decodes latents of a prior; Nothing does not"),
        (coded_model(), "those of VQVAE are indices"),
    ],
    ids=["none", "codes"],
)
def test_a_model_without_real_latents_is_refused(model: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^metric 'interpolation_smoothness' .*{sentence}"):
        measured(model)


def test_other_priors_are_drawn_from() -> None:
    """Of a uniform one on [0, 1]^3 a straight line has the squared length 3 / 6 on average."""
    prior = Independent(Uniform(torch.zeros(3).double(), torch.ones(3).double()), 1)
    value = measured(Linear(orthonormal(), prior=prior), n=2000, path="lerp")[LENGTH]
    assert abs(value.value - 0.5) < 5 * value.error
