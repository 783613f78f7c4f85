"""Quantizers against brute force, against their formulas by hand, and against autograd."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_vqvae import closest as closest_module
from zoo_vqvae import gradients as gradients_module
from zoo_vqvae.closest import closest
from zoo_vqvae.ema import EMA
from zoo_vqvae.fsq import FSQ
from zoo_vqvae.gradients import GRADIENTS
from zoo_vqvae.kmeans import kmeans
from zoo_vqvae.nearest import Nearest
from zoo_vqvae.perplexity import perplexity
from zoo_vqvae.residual import Residual
from zoo_vqvae.simvq import SimVQ

from zoo_core import Component, ConfigError, Quantizer, build

VECTOR, GRID = (3,), (3, 2, 4)
NAMES: dict[str, Any] = {
    "ema": {"type": "vqvae/ema", "codes": 7},
    "ema-normal": {"type": "vqvae/ema", "codes": 7, "start": "normal"},
    "nearest": {"type": "vqvae/nearest", "codes": 7},
    "nearest-rotation": {"type": "vqvae/nearest", "codes": 7, "gradient": "rotation"},
    "simvq": {"type": "vqvae/simvq", "codes": 7},
    "fsq": {"type": "vqvae/fsq", "levels": [3, 4, 2]},
    "gumbel": {"type": "vqvae/gumbel"},
    "residual": {"type": "vqvae/residual", "quantizer": {"type": "vqvae/ema", "codes": 7}, "depth": 3},
    "residual-fsq": {"type": "vqvae/residual", "quantizer": {"type": "vqvae/fsq", "levels": 4}, "depth": 2},
}
every_quantizer = pytest.mark.parametrize("config", NAMES.values(), ids=NAMES)
with_codebook = pytest.mark.parametrize("kind", [EMA, Nearest, SimVQ])
every_shape = pytest.mark.parametrize("shape", [VECTOR, GRID], ids=["vector", "grid"])


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def made(config: Any, shape: tuple[int, ...] = GRID) -> Any:
    """A quantizer that has seen a batch."""
    quantizer = build(config, "quantizer", latent_shape=shape)
    learn(quantizer, torch.randn(30, *shape))
    return quantizer


def learn(quantizer: Any, *parts: Tensor) -> Any:
    """A step of training on a batch in parts; what became of the last, if there are any."""
    quantized = None
    for z in parts:
        quantized = quantizer(z)
    for module in quantizer.modules():
        if isinstance(module, Component):
            module.after_step()
    return quantized


def state(quantizer: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def codebook(kind: type[Any], **options: Any) -> Any:
    """One with random codes in float64, where rounding decides nothing."""
    quantizer = kind((4, 2, 3), 6, **options).double().eval()
    for tensor in quantizer.state_dict().values():
        if tensor.is_floating_point() and tensor.dim() == 2:
            tensor.normal_()
    return quantizer


def latents(*leading: int, shape: tuple[int, ...] = (4, 2, 3)) -> Tensor:
    return torch.randn(*leading, *shape, dtype=torch.float64, requires_grad=True)


def squared(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)


# what every quantizer promises


@every_quantizer
@every_shape
def test_shapes_and_ranges_are_those_of_the_contract(config: Any, shape: tuple[int, ...]) -> None:
    quantizer: Quantizer = made({**config, "levels": [3, 4, 2]} if "levels" in config else config, shape)
    z = torch.randn(5, *shape)
    z_q, codes, loss, even = quantizer(z)
    assert z_q.shape == z.shape
    assert codes.shape == (5, *quantizer.codes_shape)
    assert quantizer.codes_shape[-len(shape[1:]) or len(quantizer.codes_shape) :] == shape[1:]
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < quantizer.codebook_size
    assert loss.shape == (5,)
    assert 1 <= even <= quantizer.codebook_size
    counts = quantizer.counts(codes)
    assert counts.shape[1] == quantizer.codebook_size
    assert counts.sum() == codes.numel()


@every_quantizer
@every_shape
def test_a_lookup_of_the_codes_is_what_was_quantized(config: Any, shape: tuple[int, ...]) -> None:
    quantizer = made(config, shape).eval()
    z = torch.randn(6, *shape)
    quantized = quantizer(z)
    assert torch.equal(quantizer.encode(z), quantized.codes)
    torch.testing.assert_close(quantizer.lookup(quantized.codes), quantized.z_q)
    folded = quantized.codes.reshape(2, 3, 1, *quantizer.codes_shape)
    torch.testing.assert_close(quantizer.lookup(folded), quantized.z_q.reshape(2, 3, 1, *shape))


@every_quantizer
def test_each_example_is_quantized_alone_and_its_loss_is_a_sum(config: Any) -> None:
    quantizer = made(config).eval()
    z = torch.randn(5, *GRID)
    together, alone = quantizer(z), [quantizer(z[i : i + 1]) for i in range(5)]
    assert torch.equal(together.codes, torch.cat([one.codes for one in alone]))
    torch.testing.assert_close(together.loss, torch.cat([one.loss for one in alone]))
    wide = torch.cat([z, z], 3)  # every position twice
    doubled = build(config, latent_shape=(3, 2, 8)).eval()
    doubled.load_state_dict(quantizer.state_dict())
    torch.testing.assert_close(doubled(wide).loss, 2 * together.loss)


@every_quantizer
def test_nothing_is_learned_outside_of_training(config: Any) -> None:
    quantizer = made(config)
    before = state(quantizer)
    quantizer.encode(torch.randn(9, *GRID))
    learn(quantizer)  # a step in which it had no part
    quantizer(torch.randn(9, *GRID))
    learn(quantizer.eval(), torch.randn(9, *GRID))
    learn(quantizer.train())  # nor has it kept what a step that was not finished had seen
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


@every_quantizer
def test_codes_are_those_from_before_the_step(config: Any) -> None:
    quantizer, z = made(config), torch.randn(9, *GRID)
    before = state(quantizer)
    one, two = quantizer(z), quantizer(z)
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(quantizer.encode(z), one.codes)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


@every_quantizer
def test_half_precision_is_widened(config: Any) -> None:
    """The codes of z in bfloat16 are those of the same numbers in float32, under autocast too."""
    quantizer = made(config).eval()
    z = (3 * torch.randn(50, *GRID)).bfloat16()
    expected = quantizer.encode(z.float())
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(z)
    assert torch.equal(quantized.codes, expected)
    assert quantized.z_q.dtype == quantized.loss.dtype == torch.float32


@every_quantizer
def test_latents_of_another_shape_are_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"made for latents of shape \(3, 2, 4\), got \(3, 4, 2\)"):
        made(config).encode(torch.randn(2, 3, 4, 2))


# the nearest code


@pytest.mark.parametrize("scores", [1, 100, 10**9])
def test_the_nearest_code_is_that_of_brute_force(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(closest_module.SCORES, "cpu", scores)
    z, e = torch.randn(57, 5, dtype=torch.float64), torch.randn(13, 5, dtype=torch.float64)
    assert torch.equal(closest(z, e), (z[:, None] - e).square().sum(2).argmin(1))


def test_a_large_common_part_decides_nothing() -> None:
    """Around 10,000 the squares of float32 are 8 apart, and the codes 1."""
    e = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))[torch.randperm(64)]
    k = torch.randint(64, (200,))
    z = e[k] + 0.3 * (torch.rand(200, 6) - 0.5)
    assert torch.equal(closest(z + 10_000, e + 10_000), k)


def test_autocast_decides_nothing() -> None:
    z, e = torch.randn(500, 3), torch.randn(200, 3)
    with torch.autocast("cpu", torch.bfloat16):
        k, W = closest(z, e), SimVQ((3,), 200)
        vectors = W.vectors()
    assert torch.equal(k, closest(z, e))
    assert torch.equal(vectors, W.vectors())


def test_the_first_of_equal_codes_is_taken() -> None:
    assert closest(torch.randn(9, 2), torch.ones(5, 2)).tolist() == [0] * 9


@with_codebook
def test_every_position_gets_the_nearest_code(kind: type[Any]) -> None:
    quantizer, z = codebook(kind), latents(5)
    e = quantizer.vectors()
    for b, i, j in itertools.product(range(5), range(2), range(3)):
        assert quantizer.encode(z)[b, i, j] == (e - z[b, :, i, j]).square().sum(1).argmin()
        assert torch.equal(quantizer(z).z_q[b, :, i, j], e[quantizer.encode(z)[b, i, j]])


# losses and gradients


@with_codebook
@pytest.mark.parametrize("beta", [0.25, 1.5])
def test_the_loss_is_the_formula_and_moves_what_it_says(kind: type[Any], beta: float) -> None:
    quantizer, z = codebook(kind, beta=beta), latents(5)
    loss, k = quantizer(z).loss, quantizer.encode(z)
    e = quantizer.vectors()[k].movedim(-1, 1)
    learned = list(quantizer.parameters())
    expected = beta * squared(z - e.detach())
    if learned:
        expected = expected + squared(z.detach() - e)
    torch.testing.assert_close(loss, expected)
    grads, by_hand = (torch.autograd.grad(total.sum(), [z, *learned]) for total in (loss, expected))
    assert all(torch.allclose(a, b) for a, b in zip(grads, by_hand, strict=True))
    assert torch.allclose(grads[0], 2 * beta * (z - e).detach())


@with_codebook
def test_straight_through_passes_a_gradient_as_it_is(kind: type[Any]) -> None:
    quantizer, z = codebook(kind), latents(5)
    w, quantized = torch.randn(5, 4, 2, 3), quantizer(z)
    (w * quantized.z_q).sum().backward()
    assert torch.equal(z.grad, w.double())
    assert all(p.grad is None for p in quantizer.parameters())


def test_the_rotation_trick_turns_and_scales() -> None:
    """J = |e|/|z| R: R turns z to e in their plane and leaves all that is orthogonal to both; a rotation, det R = 1."""
    z, e = latents(1, shape=(5,)), torch.randn(1, 5, dtype=torch.float64)
    z_q = GRADIENTS["rotation"](z, e)
    assert torch.equal(z_q, e)
    J = torch.stack([torch.autograd.grad(z_q[0, i], z, retain_graph=True)[0][0] for i in range(5)])
    R = J * z.norm() / e.norm()
    a, b = z.detach()[0] / z.detach().norm(), e[0] / e.norm()
    r = (a + b) / (a + b).norm()
    torch.testing.assert_close(R, torch.eye(5).double() - 2 * torch.outer(r, r) + 2 * torch.outer(b, a))
    torch.testing.assert_close(R @ R.mT, torch.eye(5).double())
    torch.testing.assert_close(torch.linalg.det(R), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(J @ z[0], e[0])
    others = torch.linalg.qr(torch.stack([a, b], 1), mode="complete").Q[:, 2:]
    torch.testing.assert_close(R @ others, others)


@pytest.mark.parametrize("numbers", [1, 10**9])
def test_the_rotation_trick_works_position_by_position(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients_module, "NUMBERS", numbers)
    z, e = latents(2, shape=(3, 2, 2)), torch.randn(2, 3, 2, 2, dtype=torch.float64)
    w = torch.randn_like(e)
    (grad,) = torch.autograd.grad((w * GRADIENTS["rotation"](z, e)).sum(), z)
    one = z.detach()[1:, :, 0, 1].requires_grad_()
    (alone,) = torch.autograd.grad((w[1, :, 0, 1] * GRADIENTS["rotation"](one, e[1:, :, 0, 1])).sum(), one)
    torch.testing.assert_close(grad[1, :, 0, 1], alone[0])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_what_is_quantized_has_the_layout_and_the_precision_of_the_latents(gradient: Any) -> None:
    quantizer = codebook(EMA, gradient=gradient).float()
    for z in (torch.randn(5, 4, 2, 3, requires_grad=True), latents(5)):
        z_q = quantizer(z).z_q
        assert z_q.dtype == z.dtype
        assert z_q.is_contiguous()
        assert torch.autograd.grad(z_q.sum(), z)[0].dtype == z.dtype


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("z", [torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])], ids=["no direction", "opposite"])
def test_gradients_are_finite_where_there_is_no_angle(gradient: str, z: Tensor) -> None:
    z = z.clone().requires_grad_()
    z_q = GRADIENTS[gradient](z, torch.tensor([[-2.0, 0.0]]))
    assert z_q.tolist() == [[-2.0, 0.0]]
    assert torch.autograd.grad(z_q.sum(), z)[0].isfinite().all()


# running means


def by_hand(z: Tensor, k: Tensor, N: Tensor, m: Tensor, gamma: float, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Appendix A.1, code by code."""
    K = len(N)
    N = torch.stack([gamma * N[i] + (1 - gamma) * (k == i).sum() for i in range(K)])
    m = torch.stack([gamma * m[i] + (1 - gamma) * z[k == i].sum(0) for i in range(K)])
    n = N.sum()
    return N, m, torch.stack([m[i] / ((N[i] + epsilon) / (n + K * epsilon) * n) for i in range(K)])


def test_running_means_are_those_of_the_paper() -> None:
    quantizer = EMA((2, 3), 4, decay=0.8, epsilon=0.1, start="normal", restart_below=0.0).double()
    N, m, e = quantizer.N.clone(), quantizer.m.clone(), quantizer.e.clone()
    for _ in range(3):
        z = torch.randn(5, 2, 3, dtype=torch.float64)
        rows = z.movedim(1, 2).reshape(-1, 2)
        k = (rows[:, None] - e).square().sum(2).argmin(1)
        quantized = learn(quantizer, z)
        assert torch.equal(quantized.codes.flatten(), k)
        torch.testing.assert_close(quantized.z_q, e[k].reshape(5, 3, 2).movedim(2, 1))  # learned from, then moved
        N, m, e = by_hand(rows, k, N, m, 0.8, 0.1)
        for kept, expected in ((quantizer.N, N), (quantizer.m, m), (quantizer.e, e)):
            torch.testing.assert_close(kept, expected)


@pytest.mark.parametrize("name", ["ema-normal", "residual"])
def test_a_batch_in_parts_teaches_what_it_does_at_once(name: str) -> None:
    """Parts of any size; codes that are revived take vectors of the first part, wherever the rest is."""
    quantizer = made(NAMES[name]).double()
    for level in getattr(quantizer, "levels", [quantizer]):
        level.restart_below = 0.0
    whole, parts = copy.deepcopy(quantizer), copy.deepcopy(quantizer)
    for _ in range(4):
        z = torch.randn(30, *GRID, dtype=torch.float64)
        learn(whole, z)
        learn(parts, z[:11], z[11:12], z[12:])
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value)
        assert key.endswith("started") or not torch.equal(quantizer.state_dict()[key], value)


def test_a_start_and_revived_codes_come_from_the_first_part() -> None:
    quantizer, first, second = EMA((2,), 4, restart_below=0.01), torch.rand(20, 2), torch.rand(60, 2) + 100
    torch.manual_seed(1)
    quantizer(first), quantizer(second)
    torch.manual_seed(1)
    torch.testing.assert_close(quantizer.e, kmeans(first, 4)[0], rtol=1e-4, atol=1e-4)
    learn(quantizer)
    quantizer.N[1], quantizer.m[1], quantizer.e[1] = 0.0, 0.0, 500.0
    learn(quantizer, first, second)
    assert (first - quantizer.e[1]).abs().sum(1).min() < 1e-4


def test_a_fresh_codebook_is_at_rest() -> None:
    """Before anything is learned, e is m / N already."""
    quantizer = EMA((2,), 5, start="normal").double()
    before = quantizer.e.clone()
    quantizer.keep(quantizer.N.clone(), quantizer.m.clone())
    torch.testing.assert_close(quantizer.e, before)


def test_a_dead_code_is_revived_with_both_statistics() -> None:
    quantizer = EMA((2,), 3, decay=0.5, start="normal", restart_below=0.01)
    quantizer.e.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [500.0, 500.0]]))
    quantizer.N.copy_(torch.tensor([4.0, 4.0, 1e-9]))
    quantizer.m.copy_(quantizer.N[:, None] * quantizer.e)
    z = torch.cat([torch.zeros(4, 2), torch.ones(4, 2)]) + 0.1 * torch.rand(8, 2)
    learn(quantizer, z)
    source = (z - quantizer.e[2]).square().sum(1).argmin()
    torch.testing.assert_close(quantizer.e[2], z[source], rtol=1e-4, atol=1e-5)
    assert quantizer.N[2] == pytest.approx(float(quantizer.N[:2].sum()) / 3, rel=1e-4)
    torch.testing.assert_close(quantizer.m[2], quantizer.N[2] * quantizer.e[2], rtol=1e-4, atol=1e-5)
    # Had one of the two stayed, the next steps would throw the code far away, or revive it again.
    revived = quantizer.e[2].clone()
    learn(quantizer, torch.zeros(8, 2) - 5)
    torch.testing.assert_close(quantizer.e[2], revived, rtol=1e-4, atol=1e-5)


def test_codes_that_are_used_are_left_alone_and_none_is_revived_at_zero() -> None:
    for restart_below, expected in ((0.0, 500.0), (0.01, 0.0)):
        quantizer = EMA((1,), 2, decay=0.5, start="normal", restart_below=restart_below)
        quantizer.e.copy_(torch.tensor([[0.0], [500.0]]))
        quantizer.m.copy_(quantizer.e)
        for _ in range(5):
            learn(quantizer, torch.zeros(50, 1))
        assert float(quantizer.e[0]) == 0
        assert float(quantizer.e[1]) == pytest.approx(expected, rel=0.01, abs=1e-6)


def test_means_start_at_the_clusters_of_the_first_batch() -> None:
    centres = torch.tensor([[30.0, 0.0], [0.0, 30.0]])
    z = centres.repeat(20, 1) + torch.randn(40, 2)
    quantizer = EMA((2,), 2)
    learn(quantizer, z)
    found = quantizer.e[quantizer.e[:, 1].argsort()]
    torch.testing.assert_close(found, torch.stack([z[::2].mean(0), z[1::2].mean(0)]), rtol=1e-4, atol=1e-4)
    assert quantizer.N.tolist() == pytest.approx([20, 20])
    before = quantizer.e.clone()
    learn(quantizer, z + 100)  # it starts once
    assert (quantizer.e - before).abs().max() < 5


@pytest.mark.parametrize("restart_below", [0.0, 0.01])
def test_there_may_be_fewer_vectors_than_codes(restart_below: float) -> None:
    """A centre that nothing is near to, beside its equal, stays at its vector, and no code is at 0."""
    quantizer = EMA((2,), 8, restart_below=restart_below)
    z = torch.randn(3, 2) + 5
    for _ in range(3):
        quantized = learn(quantizer, z)
        assert torch.cdist(quantizer.e, z).min(1).values.max() < 1e-3
    torch.testing.assert_close(quantizer.lookup(quantized.codes), z, rtol=1e-3, atol=1e-4)


def test_centres_do_not_get_worse() -> None:
    z = torch.randn(200, 3, dtype=torch.float64)

    def error(e: Tensor) -> float:
        return float((z - e[closest(z, e)]).square().sum())

    errors = []
    for iterations in (0, 1, 3, 10):
        torch.manual_seed(1)
        errors.append(error(kmeans(z, 10, iterations)[0]))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_latents_that_are_not_finite_leave_the_codebook_as_it_was() -> None:
    quantizer = made(NAMES["ema"])
    before = [value.clone() for value in quantizer.state_dict().values()]
    z = torch.randn(5, *GRID)
    z[0, 0, 0, 0] = float("nan")
    learn(quantizer, z)
    assert all(map(torch.equal, quantizer.state_dict().values(), before))


def test_codes_follow_their_data() -> None:
    """Whatever the start, the codes end near the vectors that there are."""
    quantizer = EMA((2,), 16, decay=0.9, start="normal")
    data = torch.rand(500, 2) + 20
    for _ in range(100):
        learn(quantizer, data[torch.randint(500, (100,))])
    assert quantizer.eval()(data).perplexity > 10
    assert squared(data - quantizer.lookup(quantizer.encode(data))).mean() < 0.03


# SimVQ


def test_one_gradient_moves_all_codes_of_simvq() -> None:
    quantizer = SimVQ((4,), 50)
    before = quantizer.vectors().detach().clone()
    quantizer(torch.randn(1, 4)).loss.sum().backward()
    assert [name for name, _ in quantizer.named_parameters()] == ["W"]
    with torch.no_grad():
        quantizer.W -= 0.1 * quantizer.W.grad
    assert (quantizer.vectors() - before).abs().sum(1).min() > 0


# FSQ


@pytest.mark.parametrize("levels", [[2, 3, 4, 5], [8, 5, 5], [7]])
def test_every_code_of_fsq_is_reached_and_looked_up(levels: list[int]) -> None:
    quantizer = FSQ((len(levels),), levels)
    digits = torch.tensor([d[::-1] for d in itertools.product(*map(range, levels[::-1]))])
    L = torch.tensor(levels)
    assert quantizer.codebook_size == len(digits) == int(L.prod())
    assert torch.equal(quantizer.lookup(torch.arange(len(digits))), (digits - L // 2) / (L // 2))
    h, o = (L - 1) * (1 - 1e-3) / 2, (1 - L % 2) / 2
    z = ((digits - L // 2 + o) / h).clamp(-0.9999, 0.9999).atanh() - torch.tan(o / h)
    assert torch.equal(quantizer.encode(z), torch.arange(len(digits)))


def test_fsq_never_leaves_its_levels() -> None:
    for L in range(2, 12):
        quantizer = FSQ((1,), L)
        z = torch.linspace(-50, 50, 4001)[:, None]
        k = quantizer.encode(z)
        assert k.unique().tolist() == list(range(L))
        assert (k.diff() >= 0).all()
        assert quantizer.lookup(k).abs().max() <= 1


def test_fsq_has_the_gradient_of_its_bound() -> None:
    quantizer, z = FSQ((2, 3), [5, 4]), torch.randn(4, 2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(quantizer(z).z_q.sum(), z)
    h = torch.tensor([2.0, 1.5]).view(2, 1) * (1 - 1e-3)
    o = torch.tensor([0.0, 0.5]).view(2, 1)
    torch.testing.assert_close(grad, (h / torch.cosh(z + torch.tan(o / h)) ** 2 / 2).detach())


def test_fsq_takes_one_number_of_levels_for_each_channel() -> None:
    assert FSQ((3, 2, 2), 4).codebook_size == 64
    with pytest.raises(ConfigError, match=r"levels: must be one for each of the 3 channels, got \[4, 4\]"):
        FSQ((3, 2, 2), [4, 4])
    with pytest.raises(ConfigError, match=r"levels\[1\]: must be an integer of at least 2, got 1"):
        FSQ((2, 2, 2), [4, 1])


# residuals


def test_the_error_falls_with_each_level() -> None:
    z = torch.randn(400, 3, 2)
    quantizer = Residual(EMA((3, 2), 8, decay=0.5), depth=5)
    for _ in range(10):
        learn(quantizer, z)
    quantizer.eval()
    codes, errors, total = quantizer.encode(z), [float(squared(z).mean())], torch.zeros_like(z)
    for level, k in zip(quantizer.levels, codes.unbind(1), strict=True):
        total = total + level.lookup(k)
        errors.append(float(squared(z - total).mean()))
    torch.testing.assert_close(quantizer.lookup(codes), total)
    assert all(after < 0.8 * before for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("inner", ["straight_through", "rotation"])
def test_a_stack_passes_a_gradient_once_and_every_loss_in_full(inner: Any) -> None:
    quantizer = Residual(Nearest((3, 2), 4, gradient=inner), depth=3).double()
    for level in quantizer.levels:
        torch.nn.init.normal_(level.e)
    z, w = latents(5, shape=(3, 2)), torch.randn(5, 3, 2, dtype=torch.float64)
    quantized = quantizer(z)
    assert torch.equal(torch.autograd.grad((w * quantized.z_q).sum(), z)[0], w)
    r, expected, slope = z.detach(), torch.zeros(5, dtype=torch.float64), torch.zeros(5, 3, 2, dtype=torch.float64)
    for level, k in zip(quantizer.levels, quantized.codes.unbind(1), strict=True):
        assert torch.equal(level.encode(r), k)
        r = r - level.lookup(k)
        expected, slope = expected + 1.25 * squared(r), slope + 2 * 0.25 * r
    torch.testing.assert_close(quantized.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(quantized.loss.sum(), z)[0], slope)


def test_levels_learn_apart() -> None:
    quantizer = Residual(EMA((2,), 4), depth=3)
    learn(quantizer, torch.randn(50, 2))
    a, b, c = (level.e for level in quantizer.levels)
    assert not torch.equal(a, b)
    assert not torch.equal(b, c)


def test_codes_are_counted_level_by_level() -> None:
    quantizer = Residual(Nearest((2,), 3), depth=2)
    codes = torch.tensor([[0, 2], [0, 1], [1, 2]])
    assert quantizer.counts(codes).tolist() == [[2, 1, 0], [0, 1, 2]]
    assert quantizer.counts(codes.view(3, 1, 2)).tolist() == [[2, 1, 0], [0, 1, 2]]


# perplexity


def test_perplexity_is_the_number_of_codes_in_even_use() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [9, 0, 0, 0], [7, 7, 0, 0]])
    assert perplexity(counts).tolist() == pytest.approx([4, 1, 2])
    p = torch.tensor([0.5, 0.25, 0.25])
    assert float(perplexity(8 * p)) == pytest.approx(float((-(p * p.log()).sum()).exp()))
