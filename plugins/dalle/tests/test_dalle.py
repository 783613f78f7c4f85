"""A transformer over captions and images: what it computes, step by step and at once."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from zoo_dalle.dalle import DALLE
from zoo_dalle.masks import Layout, layer_masks, stream_mask
from zoo_dalle.writing import Choice, last, noise_of, write_codes, write_text

from zoo_core import CheckpointError, ConfigError, DataError, build, from_pretrained, save_pretrained
from zoo_core.data import InMemory

MASKS = ["full", "row", "column", "convolutional", "dalle"]
TEXTS = ["a red", "blue", "", "ten"]

Make = Callable[..., DALLE]


@pytest.fixture(scope="module")
def model(dalle: Make) -> DALLE:
    return dalle()


def pairs(model: DALLE, n: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    tokens = model.tokens([TEXTS[i % len(TEXTS)] for i in range(n)])
    return tokens, torch.randint(7, (n, model.stream.count), generator=g)


def logits(model: DALLE, tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        text, image = model.stream(torch.zeros(len(tokens), dtype=torch.long), tokens, codes)
    assert text is not None
    return text, image


class TestCausality:
    @pytest.mark.parametrize("attention", MASKS)
    def test_a_token_changes_nothing_before_it(self, dalle: Make, attention: str) -> None:
        model = dalle(attention=attention)
        tokens, codes = pairs(model, 1)
        text, image = logits(model, tokens, codes)
        for t in range(model.text_length):
            changed = tokens.clone()
            changed[:, t] = (changed[:, t] + 1) % 256
            other_text, other_image = logits(model, changed, codes)
            assert torch.equal(other_text[:, : t + 1], text[:, : t + 1])
            assert not torch.allclose(other_image[:, 0], image[:, 0])  # and every image sees all the text
        for i in range(model.stream.count):
            changed = codes.clone()
            changed[:, i] = (changed[:, i] + 1) % 7
            other_text, other_image = logits(model, tokens, changed)
            assert torch.equal(other_text, text)
            assert torch.equal(other_image[:, : i + 1], image[:, : i + 1])
            if i + 1 < model.stream.count:
                assert not torch.allclose(other_image[:, i + 1], image[:, i + 1])

    @pytest.mark.parametrize("attention", MASKS[1:4])
    def test_a_code_reaches_just_those_whose_mask_lets_it(self, dalle: Make, attention: str) -> None:
        """One layer, so that nothing is handed on: the code at place i is seen where the mask says so."""
        model = dalle(attention=attention, depth=1, side=32)  # 8 x 8 codes
        mask = stream_mask(attention, Layout(0, 8, 8))
        tokens, codes = pairs(model, 1)
        _, image = logits(model, tokens, codes)
        for i in (0, 5, 11, 30, 47):
            changed = codes.clone()
            changed[:, i] = (changed[:, i] + 1) % 7
            _, other = logits(model, tokens, changed)
            moved = (other != image).any(-1)[0, 1:]  # logits of the next code
            assert torch.equal(moved, mask[:-1, i])

    def test_masks_are_by_layer(self, dalle: Make) -> None:
        model = dalle(attention="dalle", depth=5)
        assert model.stream.transformer.masks == layer_masks("dalle", 5)


class TestOutputs:
    def test_an_image_is_never_followed_by_text(self, model: DALLE) -> None:
        tokens, codes = pairs(model, 2)
        text, image = logits(model, tokens, codes)
        assert text.shape == (2, 6, 257)
        assert image.shape == (2, 16, 7)

    def test_probabilities_of_all_images_sum_to_one(self, dalle: Make) -> None:
        """2 x 2 places of 3 codes: all 81 images can be written down."""
        model = dalle(side=8, codes=3)
        codes = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
        for text in ("a", None):
            assert torch.allclose(model.log_prob(codes, text=text).logsumexp(0), torch.zeros(()), atol=1e-5)

    def test_probabilities_of_all_captions_sum_to_one(self, dalle: Make) -> None:
        """Of two tokens at most: the empty one, 256 of one byte, 256 x 256 of two."""
        model = dalle(side=8, codes=3, text_length=2, dim=6)
        one = [[a, 256] for a in range(256)]
        two = [[a, b] for a in range(256) for b in range(256)]
        tokens = torch.tensor([[256, 256], *one, *two])
        codes = torch.zeros(1, 4, dtype=torch.long)
        with torch.no_grad():
            parts = [model.stream_log_probs(t, codes.expand(len(t), -1)).text.sum(1) for t in tokens.split(8192)]
        assert torch.allclose(torch.cat(parts).double().logsumexp(0), torch.zeros((), dtype=torch.double), atol=1e-4)

    def test_a_pair_is_the_text_and_the_image_given_it(self, model: DALLE) -> None:
        tokens, codes = pairs(model, 4)
        grid = codes.view(-1, 4, 4)
        nats = model.token_log_probs(grid, TEXTS)
        assert torch.allclose(nats.image.sum(1), model.log_prob(grid, text=TEXTS))
        text, image = logits(model, tokens, codes)
        assert torch.allclose(nats.image, image.log_softmax(-1).gather(-1, codes[..., None])[..., 0], atol=1e-5)
        first = text[:, 0].log_softmax(-1).gather(-1, tokens[:, :1])[:, 0]
        assert torch.allclose(nats.text[:, 0], first, atol=1e-5)
        assert torch.allclose(nats.bits().image * torch.log(torch.tensor(2.0)), nats.image)

    def test_after_the_end_nothing_is_left_to_tell(self, model: DALLE) -> None:
        nats = model.token_log_probs(pairs(model, 4)[1].view(-1, 4, 4), TEXTS)
        lengths = [len(text) for text in TEXTS]
        assert (nats.text != 0).sum(1).tolist() == [min(6, n + 1) for n in lengths]

    def test_every_place_has_an_end_of_its_own(self, model: DALLE) -> None:
        ends = model.stream.text.end
        assert ends.shape == (6, 24)
        assert len(torch.unique(ends.detach(), dim=0)) == 6

    def test_an_end_is_read_at_its_own_place(self, model: DALLE) -> None:
        read = model.stream.text(model.no_text(1)) - model.stream.text.place
        assert torch.allclose(read[0], model.stream.text.end, atol=1e-6)

    def test_an_image_is_its_codes_and_what_the_first_stage_thinks_of_it(self, model: DALLE) -> None:
        x = torch.rand(3, 3, 16, 16)
        k = model.first_stage.encode(x)
        decoded = model.first_stage.decoder(model.first_stage.quantizer.lookup(k)).log_prob(x)
        assert torch.allclose(model.log_prob(x, text="red"), model.log_prob(k, text="red") + decoded)
        assert torch.allclose(model.log_prob(x), model.log_prob(k) + decoded)

    def test_without_a_caption_is_with_an_empty_one(self, model: DALLE) -> None:
        k = pairs(model, 2)[1].view(-1, 4, 4)
        assert torch.equal(model.log_prob(k), model.log_prob(k, text=""))

    def test_under_a_batch_it_knows_its_captions(self, model: DALLE) -> None:
        k = pairs(model, 4)[1].view(-1, 4, 4)
        view = model.given({"caption": TEXTS})
        assert torch.equal(view.log_prob(k), model.log_prob(k, text=TEXTS))
        assert model.given({"label": torch.zeros(4)}) is model
        drawn = view.sample(8, generator=torch.Generator().manual_seed(0))
        assert drawn.shape == (8, 3, 16, 16)


class TestWriting:
    @pytest.mark.parametrize("attention", MASKS)
    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    @pytest.mark.parametrize("batch", [1, 16])
    def test_step_by_step_is_at_once(self, dalle: Make, attention: str, guidance: float, batch: int) -> None:
        """Every code that the memory led to, against a whole pass over all that was written before it."""
        model = dalle(attention=attention)
        tokens, _ = pairs(model, batch)
        starts = torch.zeros(batch, dtype=torch.long)
        nothing = model.no_text(batch)
        seen: list[Tensor] = []

        class Recording(Choice):
            def __call__(self, logits: Tensor, u: Tensor) -> Tensor:
                seen.append(logits)
                return super().__call__(logits, u)

        noise = noise_of(0, batch, 16)
        kwargs = {"guidance": guidance, "unguided": (starts, nothing)}
        codes = last(write_codes(model.stream, starts, tokens, noise, choice=Recording(), **kwargs))
        _, given = logits(model, tokens, codes)
        _, free = logits(model, nothing, codes)
        at_once = free + guidance * (given - free)
        assert torch.allclose(torch.stack(seen, 1), at_once, atol=2e-4)
        choice = Choice()
        assert torch.equal(codes, torch.stack([choice(at_once[:, i], noise[:, i]) for i in range(16)], 1))

    def test_a_memory_grows_and_forgets_nothing(self, dalle: Make) -> None:
        model = dalle(side=64)  # 16 x 16 codes, eight times what a memory begins with
        tokens, starts = model.tokens(["red"]), torch.zeros(1, dtype=torch.long)
        noise, choice = noise_of(0, 1, 256), Choice()
        codes = last(write_codes(model.stream, starts, tokens, noise, choice=choice))
        _, at_once = logits(model, tokens, codes)
        assert torch.equal(codes[0], choice(at_once[0], noise[0]))

    def test_guidance_of_one_is_none(self, model: DALLE) -> None:
        plain, one = (model.generate(TEXTS, n=2, guidance=g) for g in (None, 1.0))
        assert torch.equal(plain, one)
        assert not torch.equal(model.generate(TEXTS, n=2, guidance=5.0), one)

    def test_the_prompt_stays_as_it_is(self, model: DALLE) -> None:
        tokens, _ = pairs(model, 4)
        before, texts = tokens.clone(), list(TEXTS)
        starts, nothing = torch.zeros(4, dtype=torch.long), model.no_text(4)
        last(write_codes(model.stream, starts, tokens, noise_of(0, 4, 16), choice=Choice(), guidance=3.0,
                         unguided=(starts, nothing)))  # fmt: skip
        model.generate(texts, guidance=3.0)
        assert torch.equal(tokens, before)
        assert texts == TEXTS

    @pytest.mark.parametrize("guidance", [1.0, 2.5])
    def test_a_picture_does_not_depend_on_its_company(self, model: DALLE, guidance: float) -> None:
        together = model.generate(["red", "blue"], n=3, seed=4, guidance=guidance)
        assert together.shape == (6, 3, 16, 16)
        assert torch.equal(model.generate("blue", n=3, seed=4, guidance=guidance), together[3:])
        assert torch.allclose(model.generate("blue", n=1, seed=4, guidance=guidance), together[3:4], atol=1e-6)
        in_parts = model.generate(["red", "blue"], n=3, seed=4, batch=2, guidance=guidance)
        assert torch.allclose(in_parts, together, atol=1e-6)

    def test_a_seed_settles_everything(self, model: DALLE) -> None:
        state = torch.random.get_rng_state()
        first = model.generate("red", n=2, seed=1)
        torch.rand(3)
        assert torch.equal(model.generate("red", n=2, seed=1), first)
        assert not torch.equal(model.generate("red", n=2, seed=2), first)
        torch.random.set_rng_state(state)
        model.generate("red")
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_codes_are_drawn_as_often_as_they_are_likely(self, dalle: Make) -> None:
        model = dalle(side=8, codes=3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            noise = torch.rand(20_000, 4, dtype=torch.float64)
        tokens = model.tokens(["ab"]).expand(20_000, -1)
        starts = torch.zeros(20_000, dtype=torch.long)
        codes = last(write_codes(model.stream, starts, tokens, noise, choice=Choice()))
        every = torch.tensor(list(itertools.product(range(3), repeat=4)))
        p = model.log_prob(every.view(-1, 2, 2), text="ab").exp().double()
        drawn = torch.zeros(81).index_add_(0, (codes * torch.tensor([27, 9, 3, 1])).sum(1), torch.ones(20_000)) / 20_000
        assert ((drawn - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()

    def test_a_part_of_an_image_is_completed(self, model: DALLE) -> None:
        image = torch.rand(3, 16, 16)
        codes = model.codes(image[None]).view(4, 4)
        pictures = model.generate("red", n=4, image=image, keep_rows=2)
        assert pictures.shape == (4, 3, 16, 16)
        noise = noise_of(0, 4, 16)
        tokens, starts = model.tokens(["red"] * 4), torch.zeros(4, dtype=torch.long)
        known = codes[:2].reshape(1, -1).expand(4, -1)
        written = last(write_codes(model.stream, starts, tokens, noise, choice=Choice(), known=known))
        assert (written.view(-1, 4, 4)[:, :2] == codes[:2]).all()
        assert torch.equal(model.pictures(written), pictures)
        assert len(torch.unique(written, dim=0)) > 1

    @pytest.mark.parametrize("rows", [-1, 0, 4])
    def test_as_many_rows_as_there_are_leave_nothing_to_complete(self, model: DALLE, rows: int) -> None:
        with pytest.raises(ConfigError, match="keep_rows: must be from 1 to 3"):
            model.generate("red", image=torch.rand(3, 16, 16), keep_rows=rows)

    def test_an_image_of_another_size_is_refused(self, model: DALLE) -> None:
        with pytest.raises((ConfigError, DataError)):
            model.generate("red", image=torch.rand(3, 8, 8), keep_rows=1)

    def test_it_can_be_watched_row_by_row(self, model: DALLE) -> None:
        whole = model.generate("red", n=2, seed=3)
        rows, pictures = zip(*model.watch("red", n=2, seed=3), strict=True)
        assert rows == (1, 2, 3, 4)
        assert torch.equal(pictures[-1], whole)
        assert all((p[..., 4 * r :, :] == 0).all() for r, p in zip(rows, pictures, strict=True))

    def test_progress_is_told(self, model: DALLE) -> None:
        told: list[int] = []
        model.generate(["red", "blue"], n=3, batch=4, progress=told.append)
        assert sum(told) == 6 * 16

    def test_no_texts_are_no_pictures(self, model: DALLE) -> None:
        assert model.generate([]).shape == (0, 3, 16, 16)

    def test_text_can_be_written(self, model: DALLE) -> None:
        texts = model.generate_text(5, seed=1)
        assert texts == model.generate_text(5, seed=1)
        assert len(set(texts)) > 1
        assert all(text.startswith("re") for text in model.generate_text(5, start="Re"))

    def test_no_token_is_written_that_the_tokenizer_does_not_have(self, dalle: Make) -> None:
        model = dalle(vocabulary=300)  # of which only the bytes exist
        starts, known = torch.zeros(200, dtype=torch.long), torch.zeros(200, 0, dtype=torch.long)
        tokens = write_text(model.stream, starts, known, noise_of(0, 200, 6), Choice(), 256)
        assert ((tokens < 256) | (tokens == 300)).all()

    def test_written_text_is_as_likely_as_it_is(self, dalle: Make) -> None:
        model = dalle(text_length=1)
        p = logits(model, model.tokens(["a"]), torch.zeros(1, 16, dtype=torch.long))[0][0, 0].softmax(-1)
        with torch.random.fork_rng(devices=[]):
            texts = model.generate_text(4000, seed=0)
        empty = sum(text == "" for text in texts) / 4000
        assert abs(empty - float(p[256])) < 5 * (float(p[256]) / 4000) ** 0.5

    def test_what_a_scorer_likes_best_is_kept(self, model: DALLE) -> None:
        def bright(images: Tensor, texts: list[str]) -> Tensor:
            assert len(images) == len(texts)
            return images.flatten(1).mean(1)

        everything = model.generate(["red", "blue"], n=8)
        kept = model.generate(["red", "blue"], n=2, scorer=bright, candidates=8)
        for i in range(2):
            of_text = everything[8 * i : 8 * i + 8]
            order = of_text.flatten(1).mean(1).argsort(descending=True)
            assert torch.equal(kept[2 * i : 2 * i + 2], of_text[order[:2]])

    @pytest.mark.parametrize("arguments", [
        {"n": 0}, {"batch": 0}, {"seed": -1}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0},
        {"top_p": 0.0}, {"top_p": 1.5}, {"guidance": -1.0}, {"guidance": float("nan")},
    ], ids=str)  # fmt: skip
    def test_bad_arguments_are_named(self, model: DALLE, arguments: dict) -> None:
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            model.generate("red", **arguments)


class TestChoice:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])

    def drawn(self, choice: Choice) -> Tensor:
        u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
        k = choice(self.logits.expand(10_000, -1), u)
        return torch.bincount(k, minlength=4) / 10_000

    def test_it_draws_from_the_softmax(self) -> None:
        assert torch.allclose(self.drawn(Choice()), self.logits[0].softmax(-1), atol=2e-4)

    def test_temperature_divides(self) -> None:
        assert torch.allclose(self.drawn(Choice(0.5)), (self.logits[0] / 0.5).softmax(-1), atol=2e-4)
        for cold in (0.0, 1e-40, 1e-9):
            assert self.drawn(Choice(cold)).tolist() == [1, 0, 0, 0]

    def test_top_k_are_the_k_likeliest(self) -> None:
        expected = torch.cat([self.logits[0, :2].softmax(-1), torch.zeros(2)])
        assert torch.allclose(self.drawn(Choice(top_k=2)), expected, atol=2e-4)
        assert torch.allclose(self.drawn(Choice(top_k=9)), self.logits[0].softmax(-1), atol=2e-4)

    @pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.7, 2), (0.9, 3), (1.0, 4)])
    def test_top_p_are_the_fewest_of_that_probability(self, top_p: float, kept: int) -> None:
        p = self.logits[0].softmax(-1)
        assert p[:kept].sum() >= top_p > p[: kept - 1].sum() - 1e-6
        expected = torch.where(torch.arange(4) < kept, p, 0) / p[:kept].sum()
        assert torch.allclose(self.drawn(Choice(top_p=top_p)), expected, atol=2e-4)

    def test_at_the_ends_of_the_unit_interval_there_is_a_token(self) -> None:
        nearly_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
        assert Choice(top_k=2)(self.logits, nearly_one).item() == 1
        assert Choice()(self.logits, torch.zeros(1, dtype=torch.float64)).item() == 0


class TestCaptions:
    def test_long_ones_are_cut_with_a_warning(self, model: DALLE) -> None:
        with pytest.warns(UserWarning, match="1 of 2 captions have more than 6 tokens"):
            tokens = model.tokens(["red", "much too long"])
        assert model.text_of(tokens) == ["red", "much t"]

    def test_or_refused(self, model: DALLE) -> None:
        with pytest.raises(DataError, match="more than 6 tokens, such as 'much too long'"):
            model.generate(["much too long"], too_long="refuse")

    def test_the_data_give_the_tokenizer(self, dalle: Make) -> None:
        model = dalle(vocabulary=258)
        images = torch.zeros(20, 3, 16, 16, dtype=torch.uint8)
        model.before_training(InMemory("pairs", "train", {"image": images, "caption": ["abab"] * 20}))
        assert len(model.tokenizer) == 258
        assert (model.tokens(["abab"])[0] != 258).sum() == 1

    def test_captions_of_the_data_that_are_too_long_are_told(self, dalle: Make) -> None:
        images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
        with pytest.warns(UserWarning, match="1 of 2 captions have more than 6 tokens"):
            dalle().before_training(InMemory("pairs", "train", {"image": images, "caption": ["red", "a red star"]}))

    def test_data_without_captions_are_refused(self, dalle: Make) -> None:
        with pytest.raises(DataError, match="learns from captions"):
            dalle().before_training(InMemory("pairs", "train", {"image": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}))


class TestCheckpoints:
    @pytest.fixture
    def folder(self, dalle: Make, tmp_path: Path) -> Path:
        model = dalle(vocabulary=260)
        images = torch.zeros(20, 3, 16, 16, dtype=torch.uint8)
        model.before_training(InMemory("pairs", "train", {"image": images, "caption": ["red", "green"] * 10}))
        return save_pretrained(model, tmp_path / "model")

    def test_a_loaded_model_draws_the_same(self, dalle: Make, folder: Path) -> None:
        loaded = from_pretrained(folder)
        again = from_pretrained(save_pretrained(loaded, folder.parent / "again"))
        assert len(loaded.tokenizer) == 260
        assert torch.equal(loaded.generate(["red"], n=2), again.generate(["red"], n=2))
        assert loaded.tokens(["red green"]).tolist() == again.tokens(["red green"]).tolist()

    def test_a_damaged_tokenizer_is_refused(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(CheckpointError, match=r"tokenizer.json: damaged or exchanged"):
            from_pretrained(folder)

    def test_a_missing_tokenizer_is_named(self, folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        with pytest.raises(CheckpointError, match=r"no file 'tokenizer\.json'"):
            from_pretrained(folder)

    def test_a_config_without_a_tokenizer_is_refused(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config["files"]
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r"files: must list tokenizer\.json"):
            from_pretrained(folder)

    def test_the_first_stage_is_part_of_it_and_never_trains(self, dalle: Make) -> None:
        model = dalle().train()
        assert not model.first_stage.training
        assert not any(p.requires_grad for p in model.first_stage.parameters())
        assert all(p.requires_grad for p in model.stream.parameters())

    def test_checkpointing_computes_the_same(self, dalle: Make) -> None:
        plain, saving = dalle(), dalle(checkpointing=True)
        tokens, codes = pairs(plain, 3)
        gradients = []
        for model in (plain, saving):
            model.train()
            model.stream_log_probs(tokens, codes).image.sum().backward()
            gradients.append([p.grad for p in model.stream.transformer.parameters()])
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(("first_stage", "found"), [
    ({"type": "classical/ppca", "latents": 2}, "has no codes"),
    ({"type": "vqvae/vqvae", "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [4]},
      "quantizer": "vqvae/nearest", "decoder": "nets/linear_decoder"}, r"has codes of shape \(\)"),
], ids=["no codes", "no grid"])  # fmt: skip
def test_a_first_stage_needs_a_grid_of_codes(first_stage: dict, found: str) -> None:
    with pytest.raises(ConfigError, match=f"must be a model with a grid of codes.*{found}"):
        build({"type": "dalle/dalle", "first_stage": first_stage}, data_shape=(1, 8, 8))


def test_heads_share_the_dim(dalle: Make) -> None:
    with pytest.raises(ConfigError, match="dim: must be a multiple of the 5 heads, got 24"):
        dalle(heads=5)
