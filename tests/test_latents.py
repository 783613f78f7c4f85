"""Movements in latent space, and the pictures of them."""

import math
import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Uniform,
)

from tests.ppca import PPCA
from zoo_core import ConfigError, DataError, build, kl
from zoo_core.data import InMemory, load
from zoo_core.images import GAP, grid, read_images, save_image, save_png, to_picture
from zoo_core.latents import (
    activity_by_dimension,
    attribute_direction,
    codes,
    interpolate,
    kl_by_dimension,
    linear,
    manifold,
    moments,
    principal_components,
    quantiles,
    reference,
    relevance,
    shift,
    spherical,
    traverse,
)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def pair(seed, shape=(3, 5)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


@given(st.integers(0, 1000), st.integers(2, 9))
def test_both_paths_begin_and_end_at_their_ends(seed, steps):
    z_0, z_1 = pair(seed)
    for path in (linear, spherical):
        z = path(z_0, z_1, steps)
        assert z.shape == (steps, 3, 5)
        torch.testing.assert_close(z[0], z_0)
        torch.testing.assert_close(z[-1], z_1)


@given(st.integers(0, 1000))
def test_spherical_keeps_length_and_turns_evenly(seed):
    z_0, z_1 = torch.nn.functional.normalize(pair(seed, (1, 4)), dim=-1)
    z = spherical(z_0, z_1, 5)[:, 0]
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5, dtype=torch.float64))
    cosines = (z[:-1] * z[1:]).sum(1)
    torch.testing.assert_close(cosines, cosines[:1].expand(4))


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0])
def test_spherical_is_linear_where_there_is_no_arc(other):
    z = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(spherical(z, other * z, 4), linear(z, other * z, 4))


def test_linear_by_hand():
    assert linear(torch.zeros(1, 1), torch.ones(1, 1), 5).flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]


def small_vae(latents=2, posterior="nets/diagonal_gaussian", prior="nets/standard_normal", shape=(1, 3, 3)):
    config = {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": latents, "hidden": [4], "posterior": posterior},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [4]},
        "prior": prior,
    }
    return build(config, data_shape=shape)


def test_interpolation_decodes_the_path_between_the_codes():
    vae = small_vae()
    x_0, x_1 = torch.rand(2, 4, 1, 3, 3)
    strip = interpolate(vae, x_0, x_1, 3, path="linear")
    torch.testing.assert_close(strip[0], vae.reconstruct(x_0))
    torch.testing.assert_close(strip[1], vae.decode((vae.encode(x_0) + vae.encode(x_1)) / 2))
    torch.testing.assert_close(strip[2], vae.reconstruct(x_1))


class Plain:
    """Codes that are the data themselves."""

    def __init__(self, *latent_shape):
        self.latent_shape = latent_shape

    def encode(self, x):
        return x

    def decode(self, z):
        return z


def fitted(name, latents=3):
    """PPCA of scikit-learn's digits, and some of them."""
    x = load("digits").batch(torch.arange(300))["image"] / 255
    model = build({"type": name, "latents": latents}, data_shape=(1, 8, 8))
    model.begin(x)
    for _ in range(4):
        model.update(model.statistics(x))
    return model, x[:40]


class TestCodes:
    @pytest.mark.parametrize("name", ["classical/gmm", "classical/kmeans"])
    def test_indices_have_nothing_in_between(self, name):
        model = build(name, data_shape=(1, 2, 2))
        model.begin(torch.rand(60, 1, 2, 2))
        with pytest.raises(ConfigError, match="encodes into indices"):
            codes(model, torch.rand(3, 1, 2, 2))

    def test_a_model_without_codes_is_told(self):
        with pytest.raises(ConfigError, match="ChowLiu does not encode and decode"):
            codes(build("classical/chow_liu", data_shape=(1, 2, 2)), torch.rand(3, 1, 2, 2))

    @pytest.mark.parametrize("function", [codes, kl_by_dimension, activity_by_dimension, relevance, reference])
    @pytest.mark.parametrize("nothing", [torch.rand(0, 1, 3, 3), []], ids=["tensor", "list"])
    def test_nothing_is_refused(self, function, nothing):
        with pytest.raises(DataError, match="no examples"):
            function(small_vae(), nothing)

    @pytest.mark.parametrize(
        "function", [codes, kl_by_dimension, activity_by_dimension, lambda m, x: relevance(m, x).values]
    )
    def test_chunks_of_any_size_are_one_set_of_examples(self, function):
        vae, images = small_vae(), torch.randint(0, 256, (1100, 1, 3, 3), dtype=torch.uint8)
        x = images / 255
        whole = function(vae, x)
        torch.testing.assert_close(function(vae, [x[:3], x[3:700], x[700:]]), whole)
        torch.testing.assert_close(function(vae, (part for part in x.split(17))), whole)
        torch.testing.assert_close(function(vae, [{"image": x[:900]}, {"image": x[900:]}]), whole)
        torch.testing.assert_close(function(vae, InMemory("mine", "train", {"image": images})), whole)

    def test_a_model_under_a_condition_is_given_the_other_columns(self):
        class Labelled(Plain):
            def given(self, batch):
                shifted = Plain(2)
                shifted.encode = lambda x: x + batch["label"][:, None]
                return shifted

        batches = [{"image": torch.zeros(2, 2), "label": torch.tensor([1.0, 3.0])}] * 2
        assert codes(Labelled(2), batches)[:, 0].tolist() == [1, 3, 1, 3]
        assert activity_by_dimension(Labelled(2), batches).tolist() == [1, 1]


class TestAttributes:
    def test_the_direction_of_a_linear_model_is_its_map_of_the_difference_of_means(self):
        ppca = PPCA.random()
        x_plus, x_minus = ppca.draw(30), ppca.draw(70)
        gain = (ppca.W * (ppca.s / ppca.sigma) ** 2).T
        expected = gain @ (x_plus.flatten(1).mean(0) - x_minus.flatten(1).mean(0))
        torch.testing.assert_close(attribute_direction(ppca.model(), x_plus, x_minus), expected)
        torch.testing.assert_close(attribute_direction(ppca.model(), x_plus.split(7), x_minus.split(64)), expected)

    @pytest.mark.parametrize("name", ["classical/ppca", "classical/ppca_em"])
    def test_models_that_are_fitted_by_sums_have_directions_too(self, name):
        model, x = fitted(name)
        W, x_plus, x_minus = model.W, x[:10].double(), x[10:].double()
        M = W.T @ W + model.variance * torch.eye(3)
        expected = torch.linalg.solve(M, W.T @ (x_plus.mean(0) - x_minus.mean(0)).flatten())
        torch.testing.assert_close(attribute_direction(model, x_plus, x_minus), expected)

    @given(st.integers(0, 1000), st.floats(-4, 4))
    def test_a_shift_moves_the_projection_on_the_direction_by_its_strength(self, seed, s):
        z, delta = (t[0] for t in (pair(seed, (4, 2, 3)), pair(seed + 1, (2, 3))))
        moved = shift(z, delta, s)
        along = ((moved - z) * delta).flatten(1).sum(1) / delta.square().sum()
        torch.testing.assert_close(along, torch.full((4,), s, dtype=torch.float64))
        torch.testing.assert_close(moved - along.view(-1, 1, 1) * delta, z)

    def test_many_strengths_at_once_are_one_after_the_other(self):
        z, delta = torch.randn(4, 3), torch.randn(3)
        moved = shift(z, delta, [-2, 0, 0.5])
        assert moved.shape == (3, 4, 3)
        assert torch.equal(moved[1], z)
        for row, s in zip(moved, (-2, 0, 0.5), strict=True):
            assert torch.equal(row, shift(z, delta, s))

    def test_a_whole_step_leads_from_one_mean_to_the_other(self):
        x_plus, x_minus = torch.randn(5, 3), torch.randn(8, 3)
        moved = shift(x_minus, attribute_direction(Plain(3), x_plus, x_minus), 1.0)
        torch.testing.assert_close(moved.mean(0), x_plus.mean(0))


class TestDimensions:
    @given(
        st.integers(0, 1000), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.sampled_from([(), (2,), (2, 3)])
    )
    def test_a_traversal_changes_one_dimension_only(self, seed, dimensions, leading):
        z, values = pair(seed, (*leading, 3, 2))[0], [-1.5, 0.0, 2.5]
        pictures = traverse(Plain(3, 2), z, dimensions, values)
        assert pictures.shape == (len(dimensions), 3, *z.shape)
        for row, j in zip(pictures, dimensions, strict=True):
            for picture, value in zip(row, values, strict=True):
                flat, others = picture.flatten(len(leading)), [k for k in range(6) if k != j]
                assert (flat[..., j] == value).all()
                assert torch.equal(flat[..., others], z.flatten(len(leading))[..., others])

    def test_each_dimension_may_have_values_of_its_own(self):
        values = torch.randn(2, 3)
        pictures = traverse(Plain(4), torch.zeros(4), [3, 1], values)
        assert torch.equal(pictures[0, :, 3], values[0])
        assert torch.equal(pictures[1, :, 1], values[1])
        assert int((pictures != 0).sum()) == 6

    def test_a_traversal_through_the_code_itself_is_the_reconstruction(self):
        vae, x = small_vae(3), torch.rand(2, 1, 3, 3)
        z = vae.encode(x)
        pictures = traverse(vae, z[:1], range(3), z[0, :, None])
        torch.testing.assert_close(pictures, vae.reconstruct(x[:1]).expand(3, 1, 1, -1, -1, -1))

    @pytest.mark.parametrize("dimensions", [[4], [-1], []])
    def test_a_dimension_that_is_not_there_is_told(self, dimensions):
        with pytest.raises(ConfigError, match="must be some of 0 to 3"):
            traverse(Plain(2, 2), torch.zeros(2, 2), dimensions, [0.0])

    def test_kl_by_dimension_is_the_closed_form_and_adds_up(self):
        ppca = PPCA.random()
        model, x = ppca.model(shift=0.3, stretch=1.4), ppca.draw(700)
        q = model.encoder(x)
        by_hand = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).mean(0)
        torch.testing.assert_close(kl_by_dimension(model, x), by_hand)
        torch.testing.assert_close(kl_by_dimension(model, x).sum(), kl(q, model.prior()).mean())

    def test_kl_by_dimension_keeps_the_grid_of_the_latents(self):
        config = {"type": "nets/conv_encoder", "latents": 2, "channels": [4, 4], "layout": "grid"}
        vae = build(
            {"type": "vae/vae", "encoder": config, "decoder": {"type": "nets/conv_decoder", "channels": [4, 4]},
             "prior": "nets/standard_normal"}, data_shape=(1, 8, 8)
        )  # fmt: skip
        x = torch.rand(5, 1, 8, 8)
        assert kl_by_dimension(vae, x).shape == vae.latent_shape == (2, 2, 2)
        torch.testing.assert_close(kl_by_dimension(vae, x).sum(), kl(vae.encoder(x), vae.prior()).mean())

    @pytest.mark.parametrize("name", ["classical/ppca", "classical/ppca_em"])
    def test_of_a_posterior_with_a_full_covariance_it_is_that_of_the_marginals(self, name):
        """Their sum is KL(q || p) less the total correlation, which is 0 where the axes are the principal ones."""
        model, x = fitted(name)
        q = model.encoder(x)
        variance = q.covariance_matrix[0].diagonal()
        by_hand = 0.5 * (q.mean.square() + variance - 1 - variance.log()).mean(0)
        torch.testing.assert_close(kl_by_dimension(model, x), by_hand)
        total_correlation = 0.5 * (variance.log().sum() - q.covariance_matrix[0].logdet())
        assert (total_correlation > 1e-4) == (name == "classical/ppca_em")
        torch.testing.assert_close(kl_by_dimension(model, x).sum() + total_correlation, kl(q, model.prior()).mean())

    @pytest.mark.parametrize(
        "parts", [{"posterior": "nets/dirac"}, {"prior": {"type": "nets/gaussian_mixture", "components": 2}}]
    )
    def test_without_a_kl_dimensions_are_told_apart_by_the_variance_of_the_codes(self, parts):
        model, x = small_vae(3, **parts), torch.rand(60, 1, 3, 3)
        with pytest.raises(ConfigError):
            kl_by_dimension(model, x)
        values, measure = relevance(model, x.split(25))
        assert measure == "variance"
        torch.testing.assert_close(values, model.encode(x).var(0, correction=0))

    def test_with_a_kl_it_is_the_measure(self):
        model, x = small_vae(3), torch.rand(60, 1, 3, 3)
        values, measure = relevance(model, x)
        assert measure == "KL"
        assert torch.equal(values, kl_by_dimension(model, x))

    def test_far_from_zero_the_variance_keeps_its_digits(self):
        x = torch.randn(200, 2, dtype=torch.float64)
        torch.testing.assert_close(activity_by_dimension(Plain(2), x + 1e7), x.var(0, correction=0), rtol=1e-6, atol=0)


class Sampled(Distribution):
    """A normal distribution of which only draws are known."""

    arg_constraints = {}

    def __init__(self, p):
        self.p = p
        super().__init__(p.batch_shape, p.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        return self.p.sample(sample_shape)


def gaussian(*shape):
    return Independent(Normal(torch.randn(shape), torch.rand(shape) + 0.5), len(shape))


class TestDistributions:
    def test_the_reference_is_the_prior_where_a_kl_ties_codes_to_it(self):
        vae = small_vae(prior={"type": "nets/gaussian_mixture", "components": 2})
        p, of = reference(vae, torch.rand(9, 1, 3, 3))
        assert of == "p(z)"
        torch.testing.assert_close(p.mean, vae.prior().mean)

    @pytest.mark.parametrize("of_a_vae", [True, False])
    def test_else_it_has_the_moments_of_the_codes(self, of_a_vae):
        model, x = small_vae(3, posterior="nets/dirac") if of_a_vae else Plain(1, 3, 3), torch.rand(50, 1, 3, 3)
        p, of = reference(model, iter(x.split(20)))
        assert of == "the codes"
        assert p.event_shape == torch.Size(model.latent_shape)
        torch.testing.assert_close(p.mean, model.encode(x).mean(0))
        torch.testing.assert_close(p.variance, model.encode(x).var(0, correction=0))

    def test_moments_come_from_formulas_or_from_draws(self):
        p = gaussian(2, 3)
        assert all(torch.equal(a, b) for a, b in zip(moments(p), (p.mean, p.stddev), strict=True))
        mean, sigma = moments(Sampled(p))
        assert ((mean - p.mean).abs() < 5 * p.stddev / 4096**0.5).all()
        assert (sigma / p.stddev - 1).abs().max() < 5 / (2 * 4096) ** 0.5

    def test_quantiles_are_those_of_each_dimension(self):
        levels = torch.tensor([0.05, 0.5, 0.9])
        p, L = gaussian(2, 2), torch.tensor([[2.0, 0.0], [3.0, 4.0]])
        expected = p.mean + p.stddev * torch.from_numpy(norm.ppf(levels)).float().view(3, 1, 1)
        torch.testing.assert_close(quantiles(p, levels), expected)
        full = quantiles(MultivariateNormal(torch.ones(2), scale_tril=L), levels)
        by_hand = 1 + torch.from_numpy(norm.ppf(levels)).float()[:, None] * torch.tensor([2.0, 5.0])
        torch.testing.assert_close(full, by_hand)
        flat = Independent(Uniform(torch.zeros(2), torch.tensor([1.0, 4.0])), 1)
        torch.testing.assert_close(quantiles(flat, levels), levels[:, None] * torch.tensor([1.0, 4.0]))

    def test_quantiles_of_a_mixture_split_its_draws(self):
        parts = Independent(Normal(torch.tensor([[-4.0, 0.0], [4.0, 9.0]]), torch.ones(2, 2)), 1)
        p, levels = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), parts), torch.tensor([0.1, 0.8])
        below = (p.sample((20_000,))[:, None] <= quantiles(p, levels)).float().mean(0)
        assert (below - levels[:, None]).abs().max() < 0.04


class TestMaps:
    @pytest.mark.parametrize("shape", [(2,), (2, 1, 1), (1, 2)])
    def test_a_plane_shows_what_each_pair_decodes_to_with_the_axes_of_a_map(self, shape):
        z_0, z_1 = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([-5.0, 7.0])
        pictures = manifold(Plain(*shape), z_0, z_1)
        assert pictures.shape == (2, 3, *shape)
        for r, up in enumerate([7.0, -5.0]):
            for c, right in enumerate([-1.0, 0.0, 2.0]):
                assert pictures[r, c].flatten().tolist() == [right, up]

    def test_a_plane_of_a_vae_is_decoded_at_the_quantiles_of_its_prior(self):
        vae = small_vae()
        levels = torch.tensor([0.25, 0.75])
        z_0, z_1 = quantiles(vae.prior(), levels).unbind(1)
        q = float(norm.ppf(0.75))
        corners = torch.tensor([[[-q, q], [q, q]], [[-q, -q], [q, -q]]])
        torch.testing.assert_close(manifold(vae, z_0, z_1), vae.decode(corners))

    def test_a_plane_needs_two_latents(self):
        with pytest.raises(ConfigError, match="has two, not"):
            manifold(small_vae(3), torch.zeros(1), torch.zeros(1))

    def test_principal_components_keep_the_distances_in_a_plane(self):
        points = torch.randn(30, 2, dtype=torch.float64) * torch.tensor([3.0, 1.0])
        plane, _ = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))
        z = (points @ plane.T + 5).view(30, 3, 2)
        shown, shares = principal_components(z)
        torch.testing.assert_close(torch.cdist(shown, shown), torch.cdist(points, points))
        S = torch.linalg.svdvals(points - points.mean(0)).square()
        torch.testing.assert_close(torch.tensor(shares, dtype=torch.float64), S / S.sum())

    @pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
    def test_too_little_for_two_components_is_told(self, shape):
        with pytest.raises(ConfigError, match="two examples and two latents"):
            principal_components(torch.randn(shape))


@given(st.integers(1, 20), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_a_grid_holds_every_image_once(n, channels, height, width, columns):
    images = torch.rand(n, channels, height, width)
    canvas = grid(images, columns)
    columns = min(columns, n)
    assert canvas.shape == (channels, math.ceil(n / columns) * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        assert torch.equal(canvas[:, top : top + height, left : left + width], image)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_survive_the_way_to_disk_and_back(tmp_path, channels):
    levels = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    path = save_image(levels / 255, tmp_path / "deep" / "x.png")
    assert torch.equal(read_images([path])[0], levels)
    save_image(levels / 255, path, enlarge=3)
    assert read_images([path])[0].shape == (channels, 15, 21)
    assert torch.equal(read_images([path])[0][:, 1::3, 1::3], levels)


def test_colour_and_transparency_are_read_as_three_channels(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "a.png")
    Image.new("P", (2, 2)).save(tmp_path / "b.png")
    assert [image.shape[0] for image in read_images([tmp_path / "a.png", tmp_path / "b.png"])] == [3, 3]


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "x.png").write_text("hello")
    with pytest.raises(DataError, match=r"x\.png"):
        read_images([tmp_path / "x.png"])


def test_values_outside_the_range_are_cut():
    assert to_picture(torch.tensor([[[-1.0, 2.0]]])).tobytes() == bytes([0, 255])


class TestFiles:
    def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
        path = tmp_path / "x.png"
        path.write_bytes(b"old")
        whole = Path.write_bytes

        def torn(self, content):
            whole(self, content[:3])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", torn)
        with pytest.raises(DataError, match=r"x\.png: No space left"):
            save_png(b"the new content", path)
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["x.png"]

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
        save_png(b"content", tmp_path / "link.png")
        assert (tmp_path / "link.png").is_symlink()
        assert (tmp_path / "real.png").read_bytes() == b"content"

    def test_a_pipe_is_written_into(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        read = []
        reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()), daemon=True)
        reader.start()
        save_png(b"content", tmp_path / "pipe")
        reader.join(5)
        assert read == [b"content"]
        assert (tmp_path / "pipe").is_fifo()

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(DataError, match="cannot write"):
            save_png(b"content", tmp_path)
