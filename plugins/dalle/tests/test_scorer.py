"""A scorer of pictures and captions: its loss against the closed form, what its scores depend on, what it refuses."""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zoo_dalle.contrastive import Contrastive, altered, blurred, brightened, noisy, shifted, spread_cross_entropy
from zoo_dalle.dalle import best
from zoo_dalle.retrieval import Retrieval, ranks
from zoo_dalle.scorer import Paired, Scorer, right

from zoo_core import ConfigError, DataError, build, evaluate, from_pretrained, save_pretrained
from zoo_core.data import InMemory, load

SIZE = (3, 16, 16)
DUMB = InMemory("dumb", "train", {"image": torch.zeros(2, *SIZE, dtype=torch.uint8)})
CAPTIONS = ["a red circle", "a small blue square left of a ring", "a", "a ring left of a small blue square", ""]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def scorer(**changes: Any) -> Scorer:
    encoder = {"type": "nets/conv_encoder", "latents": 16, "channels": [8, 16], "posterior": "nets/dirac"}
    small = {"encoder": encoder, "embedding": 8, "vocabulary": 300, "text_length": 96, "dim": 16, "depth": 2}
    model: Scorer = build({"type": "dalle/scorer", **small, **changes}, "model", data_shape=SIZE)
    return model.eval()


def pairs(n: int = 64, first: int = 0) -> dict[str, Any]:
    """Scenes of two objects with their captions."""
    batch = load("shapes", "train", image_size=16).batch(torch.arange(first, first + n))
    return {"image": batch["image"].float() / 255, "caption": batch["caption"]}


class Fixed(Paired):
    """A scorer of known similarities."""

    def __init__(self, s: Tensor, captions: list[str]) -> None:
        super().__init__(scorer(), captions)
        self.s = s

    def similarities(self, x: Tensor, others: Sequence[str] = ()) -> Tensor:
        return self.s


# the loss


def test_the_loss_of_known_similarities_is_the_closed_form() -> None:
    """With a on the diagonal and 0 elsewhere, both directions are log(1 + (B - 1) exp(-a))."""
    B, a = 7, 1.3
    s, batch = a * torch.eye(B), {"image": torch.rand(B, *SIZE)}
    total, terms = Contrastive()(Fixed(s, [str(i) for i in range(B)]), batch)
    expected = math.log(1 + (B - 1) * math.exp(-a))
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert float(terms["image_to_text"]) == float(terms["text_to_image"]) == pytest.approx(expected, rel=1e-6)
    assert float(terms["accuracy"]) == 1


def test_the_two_directions_are_cross_entropies_of_rows_and_of_columns() -> None:
    s, places = 3 * torch.randn(6, 6, dtype=torch.float64), torch.arange(6)
    batch = {"image": torch.rand(6, *SIZE)}
    total, terms = Contrastive()(Fixed(s, list("abcdef")), batch)
    torch.testing.assert_close(terms["image_to_text"], F.cross_entropy(s, places))
    torch.testing.assert_close(terms["text_to_image"], F.cross_entropy(s.T, places))
    turned, exchanged = Contrastive()(Fixed(s.T, list("abcdef")), batch)
    torch.testing.assert_close(turned, total)
    torch.testing.assert_close(exchanged["image_to_text"], terms["text_to_image"])
    assert not torch.allclose(terms["image_to_text"], terms["text_to_image"])
    assert float(terms["accuracy"]) == pytest.approx(float((s.argmax(1) == places).double().mean()))


def test_equal_captions_are_all_right() -> None:
    """Two of four captions are equal: the least that their rows can cost is log 2, when both are as likely."""
    captions = ["a", "b", "a", "c"]
    hits = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    assert torch.equal(right(captions), hits)
    total, terms = Contrastive()(Fixed(60.0 * hits, captions), {"image": torch.rand(4, *SIZE)})
    assert float(total) == pytest.approx(math.log(2) / 2, rel=1e-5)
    assert float(terms["accuracy"]) == 1
    swapped = Fixed(60.0 * hits[[2, 1, 0, 3]], captions)  # the other picture of the same caption
    assert float(Contrastive()(swapped, {"image": torch.rand(4, *SIZE)}).terms["accuracy"]) == 1


def test_the_gradient_is_that_of_a_cross_entropy() -> None:
    """d/ds_ij of the mean of both directions is (p(y_j|x_i) - t_ij + p(x_i|y_j) - t_ji) / 2B."""
    s = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    captions = ["a", "b", "a", "c", "d"]
    Contrastive()(Fixed(s, captions), {"image": torch.rand(5, *SIZE)}).total.backward()
    t = right(captions) / right(captions).sum(1, keepdim=True)
    expected = (s.softmax(1) - t + s.softmax(0) - t.T) / 10
    assert s.grad is not None
    torch.testing.assert_close(s.grad, expected.detach())


def test_a_spread_target_is_an_average_over_the_right_ones() -> None:
    logits, hits = torch.randn(1, 4), torch.tensor([[True, False, True, False]])
    log_p = logits.log_softmax(1)[0]
    assert float(spread_cross_entropy(logits, hits)) == pytest.approx(float(-(log_p[0] + log_p[2]) / 2))


def test_a_step_moves_every_parameter() -> None:
    model, batch = scorer(), pairs(8)
    Contrastive()(model.given(batch), batch).total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert still == []
    # The last place is for the end of a caption of ``text_length`` tokens, which none of these is.
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_64_pairs_are_learned() -> None:
    model, batch = scorer(vocabulary=400), pairs()
    model.before_training(load("shapes", "train", image_size=16, length=64))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        total, terms = Contrastive()(model.given(batch), batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert float(total.detach()) < 0.25 * math.log(64)
    assert float(terms["accuracy"]) > 0.8  # of 1/64 by chance


# altered captions


def test_one_word_is_exchanged_for_another_between_the_same_two() -> None:
    captions = ["a red circle", "a blue circle", "a green ring", "no", "a blue ring"]
    found = {made for _ in range(60) for made in altered(captions, range(5))}
    one_word_off = {"a red circle", "a blue circle", "a green ring", "a blue ring"}  # colours before the same shape …
    assert found == one_word_off  # … and shapes after "blue"
    assert altered(captions, [3]) == []
    assert {tuple(altered(captions, [0])) for _ in range(20)} == {("a blue circle",)}
    assert {tuple(altered(["go", "a b c", "a d c", "a e c"], [1])) for _ in range(40)} == {("a d c",), ("a e c",)}


def test_altered_captions_are_told_from_the_right_one() -> None:
    """They are columns of their own for images; what is equal to an image's caption stays right for it."""
    captions, wrong = ["a", "b", "c"], ["b", "d"]
    hits = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0]]).bool()
    assert torch.equal(right(captions, wrong), hits)
    s = torch.randn(3, 5, dtype=torch.float64)

    class Told(Contrastive):
        def more(self, captions: Sequence[str]) -> list[str]:
            return wrong

    _, terms = Told()(Fixed(s, captions), {"image": torch.rand(3, *SIZE)})
    log_p = s.log_softmax(1)
    expected = -(log_p[0, 0] + (log_p[1, 1] + log_p[1, 3]) / 2 + log_p[2, 2]) / 3
    torch.testing.assert_close(terms["image_to_text"], expected)
    torch.testing.assert_close(terms["text_to_image"], F.cross_entropy(s[:, :3].T, torch.arange(3)))


def test_as_many_captions_are_altered_as_were_asked_for() -> None:
    captions = pairs(40)["caption"]
    assert [len(Contrastive(altered=share).more(captions)) for share in (0.0, 0.25, 1.0)] == [0, 10, 40]
    changed = Contrastive(altered=1.0).more(captions)
    assert not set(changed) & set(captions)
    model, batch = scorer(), pairs(20)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = Contrastive()(model.given(batch), batch)
        assert torch.equal(Contrastive(altered=1.0)(model.given(batch), batch).total, plain.total)
    more = Contrastive(altered=1.0)(model.given(batch), batch)
    assert more.terms["image_to_text"] > plain.terms["image_to_text"]
    torch.testing.assert_close(more.terms["text_to_image"], plain.terms["text_to_image"])


# variations of the images


def image(*, size: tuple[int, int] = (9, 7), n: int = 200) -> Tensor:
    return torch.rand(1, 3, *size).expand(n, -1, -1, -1)


def test_shifts_are_of_whole_pixels_and_reach_every_offset() -> None:
    x = image()
    y = shifted(x, 2)
    padded = F.pad(x[:1], [2, 2, 2, 2], mode="replicate")[0]
    offsets = [(i, j) for i in range(5) for j in range(5)]
    windows = torch.stack([padded[:, i : i + 9, j : j + 7] for i, j in offsets])
    found = (y[:, None] == windows).flatten(2).all(2)
    assert found.any(1).all()
    assert found.any(0).all()


def test_each_image_is_varied_on_its_own_within_bounds() -> None:
    x = 0.2 + 0.6 * image()
    ratio = (brightened(x, 0.25) / x).flatten(1)
    assert ratio.std(1).max() < 1e-5
    assert 0.75 <= ratio.min() < 0.8 < 1.2 < ratio.max() <= 1.25 + 1e-5
    deviations = (noisy(x, 0.1) - x).flatten(1).std(1)
    assert 0 <= deviations.min() < 0.03 < 0.07 < deviations.max() < 0.13
    soft = blurred(x, 0.3)
    smooth = (soft != x).flatten(1).any(1)
    assert 0.15 < smooth.double().mean() < 0.45
    dot = torch.zeros(1, 1, 5, 5)
    dot[..., 2, 2] = 1
    kernel = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    torch.testing.assert_close(blurred(dot, 1.0)[0, 0, 1:4, 1:4], kernel)
    for y in (brightened(x * 1.25, 1.0), noisy(x, 2.0), soft, shifted(x, 2)):
        assert y.shape == x.shape
        assert 0 <= y.min() <= y.max() <= 1


def test_images_are_varied_in_training_alone() -> None:
    model, batch = scorer(), pairs(6)
    loss = Contrastive(shift=2, brightness=0.5, blur=0.5, noise=0.5)
    with torch.no_grad():
        plain = Contrastive()(model.given(batch), batch).total
        assert torch.equal(loss(model.given(batch), batch).total, plain)
    torch.manual_seed(1)
    first = loss(model.given(batch), batch).total
    assert not torch.allclose(first, plain)
    torch.manual_seed(1)
    assert torch.equal(loss(model.given(batch), batch).total, first)
    assert torch.equal(Contrastive()(model.given(batch), batch).total.detach(), plain)


# scores


def test_a_score_is_the_scale_times_the_cosine() -> None:
    model, x = scorer(), torch.rand(5, *SIZE)
    f, g = model.embed_images(x), model.embed_texts(CAPTIONS)
    assert f.shape == g.shape == (5, 8)
    torch.testing.assert_close(f.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(g.norm(dim=1), torch.ones(5))
    expected = F.cosine_similarity(f, g) / 0.07
    torch.testing.assert_close(model.score(x, CAPTIONS), expected.detach())
    torch.testing.assert_close(model.similarities(x, CAPTIONS).diagonal(), expected)
    torch.testing.assert_close(model.given({"caption": CAPTIONS}).similarities(x), model.similarities(x, CAPTIONS))


def test_the_scale_ends_at_100() -> None:
    model = scorer()
    torch.nn.init.constant_(model.log_scale, 9.0)
    assert float(model.scale.detach()) == pytest.approx(100)
    assert float(model.score(torch.rand(1, *SIZE), ["a"]).abs()) <= 100.01


def test_scores_do_not_depend_on_the_batch() -> None:
    model, x = scorer().double(), torch.rand(5, *SIZE, dtype=torch.float64)
    whole = model.score(x, CAPTIONS)
    singly = torch.cat([model.score(x[i : i + 1], CAPTIONS[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(singly, whole, rtol=1e-5, atol=1e-5)
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(model.score(x[order], [CAPTIONS[i] for i in order]), whole[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.score(x, CAPTIONS, batch=2), whole, rtol=1e-5, atol=1e-5)
    repeated = model.score(x[[0, 1, 2, 0]], [CAPTIONS[i] for i in (0, 1, 0, 0)])
    torch.testing.assert_close(repeated[[0, 1, 3]], whole[[0, 1, 0]], rtol=1e-5, atol=1e-5)


def test_the_order_of_words_matters() -> None:
    model = scorer()
    one, other = model.embed_texts(["a ring left of a star", "a star left of a ring"])
    assert not torch.allclose(one, other, atol=1e-4)


def test_a_caption_is_lower_cased() -> None:
    assert torch.equal(*scorer().embed_texts(["A Red Circle", "a red circle"]))


def test_a_longer_caption_is_cut_with_a_warning() -> None:
    model = scorer(text_length=5)
    with pytest.warns(UserWarning, match="1 of 2 captions have more than 5 tokens, such as 'abcdefgh'"):
        g = model.embed_texts(["abcdefgh", "abcde"])
    assert torch.equal(g[0], g[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.embed_texts(["abcde"])


def test_an_end_after_a_caption_of_full_length_counts() -> None:
    """What is cut has the end of a caption too, and its last word matters."""
    model = scorer(text_length=5)
    one, other, shorter = model.embed_texts(["abcde", "abcdz", "abcd"])
    assert not torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, shorter, atol=1e-4)


def test_no_images_have_no_scores() -> None:
    assert scorer().score(torch.empty(0, *SIZE), []).shape == (0,)


def test_it_chooses_among_samples() -> None:
    model, x = scorer(), torch.rand(6, *SIZE)
    scores = model.score(x, ["a"] * 3 + ["b"] * 3).view(2, 3)
    chosen = best(x, ["a", "b"], 1, model.score)
    assert torch.equal(chosen, torch.stack([x[scores[0].argmax()], x[3 + scores[1].argmax()]]))


# what it refuses


@pytest.mark.parametrize(("ask", "message"), [
    (lambda m: m.sample(2), "a scorer draws no pictures"),
    (lambda m: m.given({"caption": ["a"]}).sample(2), "a scorer draws no pictures"),
    (lambda m: m.score(torch.rand(2, *SIZE), ["a"]), "as many as there are images, 2; got 1"),
    (lambda m: m.score(torch.rand(2, *SIZE), "ab"), "as many as there are images, 2; got one string"),
    (lambda m: m.score(torch.rand(2, *SIZE), ["a", "b"], batch=0), "batch: must be a positive integer, got 0"),
    (lambda m: m.embed_images(torch.rand(2, 3, 8, 8)), r"must be images \(B, 3, 16, 16\), got \(2, 3, 8, 8\)"),
    (lambda m: m.embed_texts([3]), "a caption must be a string, got int"),
    (lambda m: m.before_training(DUMB), "learns from captions; 'dumb' has the columns image"),
    (lambda m: scorer(dim=6, heads=4), "dim: must be a multiple of the 4 heads, got 6"),
    (lambda m: Contrastive()(m, pairs(2)), "loss 'contrastive' needs a scorer and captions; got a Scorer"),
    (lambda m: Retrieval().update(m, pairs(2)), "metric 'retrieval' needs a scorer and captions; got a Scorer"),
])  # fmt: skip
def test_what_it_cannot_do_it_says_in_a_sentence(ask: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        ask(scorer())


def test_without_captions_it_is_itself() -> None:
    model = scorer()
    assert model.given({"image": torch.rand(1, *SIZE)}) is model
    with pytest.raises(NotImplementedError, match="Scorer has no density"):
        model.log_prob(torch.rand(1, *SIZE))


# saving


def test_a_saved_scorer_gives_equal_scores(tmp_path: Path) -> None:
    model, batch = scorer(vocabulary=400), pairs(20)
    model.before_training(load("shapes", "train", image_size=16, length=300))
    assert len(model.tokenizer) > 300
    folder = save_pretrained(model, tmp_path / "model")
    loaded = from_pretrained(folder).eval()
    assert isinstance(loaded, Scorer)
    assert torch.equal(loaded.score(**arguments(batch)), model.score(**arguments(batch)))
    assert json.loads((folder / "tokenizer.json").read_text()) == json.loads(model.tokenizer.serialized())


def arguments(batch: dict[str, Any]) -> dict[str, Any]:
    return {"images": batch["image"], "captions": batch["caption"]}


def test_a_tokenizer_too_large_for_the_model_is_refused() -> None:
    large = scorer(vocabulary=400)
    large.before_training(load("shapes", "train", image_size=16, length=300))
    with pytest.raises(ConfigError, match=r"vocabulary: is 300, but tokenizer.json has \d+ tokens"):
        scorer().take_files(large.files())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_it_computes_in_the_dtype_it_is_moved_to(dtype: torch.dtype) -> None:
    model, batch = scorer(), pairs(4)
    single = model.score(**arguments(batch))
    moved = model.to(dtype).score(batch["image"].to(dtype), batch["caption"])
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, single, rtol=0, atol=1e-4 if dtype == torch.float64 else 2.0)


def test_it_computes_on_the_meta_device() -> None:
    model = scorer().to("meta")
    assert model.score(torch.rand(2, *SIZE, device="meta"), ["a", "b"]).is_meta


# retrieval


def test_a_rank_counts_wrong_captions_that_are_at_least_as_similar() -> None:
    s = torch.tensor([[3.0, 2, 1, 0], [3, 3, 3, 0], [5, 4, 3, 2], [1, 2, 3, float("nan")]])
    assert ranks(s, right(["a", "b", "c", "d"])).tolist() == [0, 2, 2, 3]
    assert ranks(s, right(["a", "b", "a", "d"])).tolist() == [0, 2, 1, 3]
    assert ranks(torch.zeros(4, 4), right(["a", "b", "c", "d"])).tolist() == [3] * 4


def test_retrieval_is_a_share_of_all_examples() -> None:
    metric, B = Retrieval(), 10
    metric.update(Fixed(torch.eye(B), [str(i) for i in range(B)]), {"image": torch.rand(B, *SIZE)})
    falling = -torch.arange(8.0).expand(8, 8)  # caption j is number j for every image
    metric.update(Fixed(falling, [str(i) for i in range(8)]), {"image": torch.rand(8, *SIZE)})
    found = metric.compute()
    one, five = found["retrieval_accuracy"], found["retrieval_accuracy_top5"]
    assert (one.value, five.value, one.n) == (pytest.approx(11 / 18), pytest.approx(15 / 18), 18)
    assert one.error == pytest.approx(math.sqrt(11 / 18 * 7 / 18 / 17))
    metric.reset()
    assert metric.compute() == {}


def test_retrieval_is_measured_batch_by_batch() -> None:
    """A scorer of nothing finds the right one of B captions in 1/B of cases, whatever it has been told before."""
    data, model = load("shapes", "test", image_size=16, length=300), scorer()
    for batch in (3, 60):
        found = evaluate(model, [Retrieval()], data, batch=batch)["retrieval_accuracy"]
        assert found.n == 300
        assert abs(found.value - 1 / batch) < 5 * math.sqrt(1 / batch / 300)
