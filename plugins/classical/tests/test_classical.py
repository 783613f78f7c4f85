"""What every model of this plugin promises."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo_core import (
    ConfigError,
    StatisticalModel,
    build,
    default_host,
    describe,
    from_pretrained,
    read_recipe,
    save_pretrained,
)

CONFIGS = [
    {"type": "classical/ppca", "latents": 5},
    {"type": "classical/ppca_em", "latents": 5},
    {"type": "classical/gmm", "components": 4, "covariance": "full", "min_variance": 1e-3},
    {"type": "classical/gmm", "components": 4, "covariance": "tied", "min_variance": 1e-3},
    {"type": "classical/gmm", "components": 4, "covariance": "diagonal", "min_variance": 1e-3},
    {"type": "classical/gmm", "components": 4, "covariance": "spherical", "min_variance": 1e-3},
    {"type": "classical/gmm", "components": 4, "covariance": "low_rank", "min_variance": 1e-3, "rank": 5},
    {"type": "classical/kmeans", "clusters": 6},
    {"type": "classical/chow_liu", "smoothing": 0.5},
]
RECIPES = sorted(Path(__file__).parents[1].glob("zoo_classical/recipes/*.yaml"))


def told(config: dict[str, Any]) -> str:
    return "-".join(v for v in (config["type"].partition("/")[2], config.get("covariance")) if v)


every_model = pytest.mark.parametrize("config", CONFIGS, ids=told)


def made(config: dict[str, Any], shape: tuple[int, ...] = (1, 8, 8)) -> Any:
    return build(config, data_shape=shape)


def suited(config: dict[str, Any], x: Tensor) -> Tensor:
    return x.round() if config["type"] == "classical/chow_liu" else x


def has_density(model: Any) -> bool:
    return model.__class__.__name__ != "KMeans"


@pytest.fixture(params=CONFIGS, ids=told)
def fitted(request: Any, digits: Tensor, fit: Any) -> Any:
    model = made(request.param)
    fit(model, suited(request.param, digits[:400]), 2)
    return model


def answers(model: Any, x: Tensor) -> Iterator[Tensor]:
    yield model.sample(3, generator=torch.Generator().manual_seed(1))
    if has_density(model):
        yield model.log_prob(x)


def test_every_registered_model_is_tested() -> None:
    registered = {r.full_name for r in default_host().registrations("model") if r.full_name.startswith("classical/")}
    assert registered == {config["type"] for config in CONFIGS}


@every_model
def test_the_objective_never_falls(config: dict[str, Any], digits: Tensor, fit: Any) -> None:
    x = suited(config, digits)
    objectives = torch.tensor(fit(made(config), x, 25), dtype=torch.float64)
    assert (objectives.diff() > -1e-11).all()
    assert objectives[-1] > objectives[0] + 0.1


@every_model
def test_the_objective_is_the_log_density_before_the_update(config: dict[str, Any], digits: Tensor, fit: Any) -> None:
    model, x = made(config), suited(config, digits)
    fit(model, x, 1)
    statistics = model.statistics(x)
    assert statistics["n"] == len(x)
    expected = model.log_prob(x) if has_density(model) else -(x - model.reconstruct(x)).double().square().flatten(1)
    assert statistics["objective"].item() == pytest.approx(expected.sum().item(), rel=1e-6)


@every_model
def test_statistics_add_up_over_any_batches(config: dict[str, Any], digits: Tensor, fit: Any, sums: Any) -> None:
    model, x = made(config), suited(config, digits[:300])
    fit(model, x, 2)
    whole = model.statistics(x)
    assert all(value.dtype == torch.float64 for value in whole.values())

    @settings(max_examples=8, deadline=None, derandomize=True, database=None)
    @given(st.integers(1, 299), st.randoms(use_true_random=False))
    def split(first: int, random: Any) -> None:
        order = torch.tensor(random.sample(range(300), 300))
        parts = sums(model, x[order], first, 300 - first)
        for name, value in whole.items():
            assert torch.allclose(parts[name], value, rtol=1e-10, atol=1e-10), name

    split()


@every_model
def test_a_fit_does_not_depend_on_the_batches(config: dict[str, Any], digits: Tensor, sums: Any) -> None:
    x = suited(config, digits[:300])
    models = [made(config), made(config)]
    for model, sizes in zip(models, [(300,), (7, 93, 100, 100)], strict=True):
        torch.manual_seed(3)
        model.begin(x)
        for _ in range(5):
            model.update(sums(model, x, *sizes))
    one, other = ([*answers(model, x)] for model in models)
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)


def test_draws_are_images(fitted: Any) -> None:
    x = fitted.sample(20)
    assert x.shape == (20, 1, 8, 8)
    assert x.dtype == torch.float32
    assert ((x >= 0) & (x <= 1)).all()


def test_saved_and_loaded_it_is_the_same_to_the_bit(fitted: Any, digits: Tensor, tmp_path: Path) -> None:
    twin = from_pretrained(save_pretrained(fitted, tmp_path / "model"))
    assert describe(twin) == describe(fitted)
    for name, tensor in fitted.state_dict().items():
        assert twin.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(twin.state_dict()[name], tensor), name
    x = digits[:50].round()
    for a, b in zip(answers(fitted, x), answers(twin, x), strict=True):
        assert torch.equal(a, b)


def test_a_fit_goes_on_after_loading(fitted: Any, digits: Tensor, fit: Any, tmp_path: Path) -> None:
    x = digits[:100].round()
    twin = from_pretrained(save_pretrained(fitted, tmp_path / "model"))
    assert fit(twin, x, 2, begun=True) == fit(fitted, x, 2, begun=True)


def test_single_precision_answers_nearly_the_same(fitted: Any, digits: Tensor) -> None:
    x = digits[:50].round()
    double = [*answers(fitted, x)]
    for a, b in zip(answers(fitted.float(), x), double, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-2)


def test_a_density_is_differentiable_in_x(fitted: Any, digits: Tensor) -> None:
    if not has_density(fitted):
        with pytest.raises(NotImplementedError, match="has no density"):
            fitted.log_prob(digits[:2])
    elif not hasattr(fitted, "binary"):
        x = digits[:2].double().requires_grad_()
        fitted.log_prob(x).sum().backward()
        assert x.grad.isfinite().all()


@every_model
def test_before_the_fit_it_says_so(config: dict[str, Any], digits: Tensor) -> None:
    model, x = made(config), suited(config, digits[:4])
    refused = [lambda: model.sample(2), lambda: model.statistics(x)]
    refused += [lambda: model.log_prob(x)] if has_density(model) else [lambda: model.encode(x)]
    for ask in refused:
        with pytest.raises(ConfigError, match=r"^\w+ has no parameters yet: fit it with a recipe, or load it"):
            ask()


@pytest.mark.parametrize("shape", [(6,), (3, 4, 5), (1, 8, 8)])
@every_model
def test_data_may_have_any_shape(config: dict[str, Any], shape: tuple[int, ...], fit: Any) -> None:
    x = suited(config, torch.rand(40, *shape))
    model = made(config, shape)
    fit(model, x, 2)
    assert model.sample(2).shape == (2, *shape)
    if has_density(model):
        assert model.log_prob(x).shape == (40,)
        assert model.log_prob(x).isfinite().all()
    if hasattr(model, "encode"):
        assert model.encode(x).shape == (40, *model.latent_shape)
        assert model.reconstruct(x).shape == x.shape


@every_model
def test_it_is_fitted_by_sums(config: dict[str, Any]) -> None:
    model = made(config)
    assert isinstance(model, StatisticalModel)
    assert not [*model.parameters()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_names_a_model(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.summary.endswith(".")
    assert made(dict(recipe.model), (1, 28, 28)).data_shape == (1, 28, 28)


def test_every_model_has_a_recipe() -> None:
    assert {read_recipe(path).model["type"] for path in RECIPES} == {config["type"] for config in CONFIGS}
