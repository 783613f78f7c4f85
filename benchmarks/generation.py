"""Drawing the 256 codes of an image after 32 text tokens: the zoo, dalle-pytorch and transformers, of about one size.

All have dim 256, 6 layers, 8 heads, vocabularies of 2,048 + 1,024 and 7.9 M parameters: the zoo's hidden layers are 6
dims wide instead of 4 for that (its own 6.3 M are measured too). They take turns in one process of one thread, on
random weights, which cost what trained ones do. Told are codes per second of CPU time, of all images of a batch.

dalle-pytorch ignores ``use_cache`` unless it is guided, and so runs the whole stream again for each code: minutes for
a batch. Of its 256 steps five are run, and the others follow by Simpson's rule. ``with its cache mended`` is what it
would cost if the argument came through. The matrix products alone are those of the zoo's layers, with nothing between.

Peers that are not installed are left out. dalle-pytorch 1.6.6 wants packages that no longer install, for other things
than its transformer; without them it is installed by

    pip install --no-deps dalle-pytorch==1.6.6 axial-positional-embedding einops rotary-embedding-torch

    python benchmarks/generation.py [BATCH ...]
"""

import functools
import importlib
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from rounds import conditions, in_turns
from torch import Tensor, nn
from torch.nn import functional as F
from zoo_dalle.stream import Stream
from zoo_dalle.transformer import Transformer
from zoo_dalle.writing import Choice, last, noise_of, write_codes

TEXT, SIDE, WORDS, CODES = 32, 16, 2048, 1024
DIM, DEPTH, HEADS = 256, 6, 8
COUNT, ROUNDS, REFERENCE = SIDE**2, 5, "zoo"
SIMPSON = {0: 1, 64: 4, 128: 2, 192: 4, COUNT - 1: 1}  # codes that there are: weight
# What dalle-pytorch imports for things that nothing here uses, and that are hard to install or gone.
UNUSED = (
    "ftfy", "omegaconf", "pkg_resources", "requests", "taming", "taming.models", "taming.models.vqgan", "torchvision",
    "torchvision.transforms", "webdataset", "youtokentome",
)  # fmt: skip
Generation = Callable[[], float]  # draws one batch and returns the CPU seconds of that


class Unused(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def zoo_stream(widening: int = 6) -> Stream:
    stream = Stream(1, CODES, (SIDE, SIDE), DIM, DEPTH, HEADS, text=(WORDS, TEXT))
    own = stream.transformer
    stream.transformer = Transformer(DIM, HEADS, DIM // HEADS, own.masks, own.layout, widening)
    return stream.eval()


@functools.cache
def imported_dalle_pytorch() -> Any:
    """The package, as it is imported where what it does not need here is missing."""
    missing = {name: Unused(name) for name in UNUSED if not installed(name.split(".")[0])}
    sys.modules.update(missing)
    try:
        return importlib.import_module("dalle_pytorch.dalle_pytorch")
    finally:
        for name in missing:  # others may look for them
            del sys.modules[name]


def dalle_pytorch(dim_head: int = DIM // HEADS) -> Any:
    """Its DALLE behind the smallest of its image models, which only has to be there."""
    package = imported_dalle_pytorch()
    vae = package.DiscreteVAE(
        image_size=8 * SIDE, num_layers=3, num_tokens=CODES, codebook_dim=8, hidden_dim=8, num_resnet_blocks=0
    )
    sizes = {"num_text_tokens": WORDS, "text_seq_len": TEXT, "dim": DIM, "depth": DEPTH, "heads": HEADS}
    return package.DALLE(vae=vae, dim_head=dim_head, **sizes)


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS + CODES, hidden_size=DIM, intermediate_size=4 * DIM, num_hidden_layers=DEPTH,
        num_attention_heads=HEADS, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def words(batch: int) -> Tensor:
    return torch.randint(1, WORDS, (batch, TEXT))


def by_zoo(batch: int, widening: int = 6) -> Generation:
    stream, noise = zoo_stream(widening), noise_of(0, batch, COUNT)
    starts = torch.zeros(batch, dtype=torch.int64)
    return lambda: cpu_seconds(lambda: last(write_codes(stream, starts, words(batch), noise, choice=Choice())))


def by_zoo_as_it_comes(batch: int) -> Generation:
    return by_zoo(batch, widening=4)


def by_dalle_pytorch(batch: int) -> Generation:
    package, model = imported_dalle_pytorch(), dalle_pytorch().eval()

    @torch.no_grad()
    def step(done: int) -> None:
        codes = torch.randint(CODES, (batch, done))
        logits = model.forward_with_cond_scale(words(batch), codes, cache={})[:, -1]
        package.gumbel_sample(package.top_k(logits, thres=0.5), temperature=1.0)

    def generation() -> float:
        costs = {done: cpu_seconds(lambda done=done: step(done)) for done in SIMPSON}
        return COUNT * sum(weight * costs[done] for done, weight in SIMPSON.items()) / sum(SIMPSON.values())

    return generation


def by_mended_dalle_pytorch(batch: int) -> Generation:
    model = dalle_pytorch().eval()
    model.forward_with_cond_scale = lambda *tokens, cond_scale, cache: model(*tokens, cache=cache)
    return lambda: cpu_seconds(lambda: model.generate_images(words(batch), use_cache=True))


def by_transformers(batch: int, **cache: str) -> Generation:
    model = llama()
    tokens = {"max_new_tokens": COUNT, "min_new_tokens": COUNT, "do_sample": True, "top_k": 0}
    start = torch.zeros(batch, 1, dtype=torch.int64)
    return lambda: cpu_seconds(lambda: model.generate(torch.cat([start, words(batch)], 1), **tokens, **cache))


def by_transformers_static(batch: int) -> Generation:
    return by_transformers(batch, cache_implementation="static")


def products_alone(batch: int) -> Generation:
    """The layers of the zoo's stream, each on inputs of its own."""
    stream = zoo_stream()
    layers = [layer for layer in (*stream.transformer.modules(), stream.next_code) if isinstance(layer, nn.Linear)]
    inputs = [torch.randn(batch, layer.in_features) for layer in layers]

    @torch.no_grad()
    def generation() -> None:
        for _ in range(COUNT):
            for layer, x in zip(layers, inputs, strict=True):
                F.linear(x, layer.weight, layer.bias)

    return lambda: cpu_seconds(generation)


CONTESTANTS: dict[str, tuple[str | None, Callable[[int], Generation]]] = {
    REFERENCE: (None, by_zoo),
    "zoo, hidden layers of 4 dims (6.3 M)": (None, by_zoo_as_it_comes),
    "dalle-pytorch, use_cache": ("dalle_pytorch", by_dalle_pytorch),
    "dalle-pytorch with its cache mended": ("dalle_pytorch", by_mended_dalle_pytorch),
    "transformers: Llama, dynamic cache": ("transformers", by_transformers),
    "transformers: Llama, static cache": ("transformers", by_transformers_static),
    "the matrix products alone": (None, products_alone),
}


def present() -> dict[str, Any]:
    """The contestants whose package is installed."""
    return {name: run for name, (package, run) in CONTESTANTS.items() if not package or installed(package)}


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def compete(batch: int) -> None:
    torch.manual_seed(0)
    generations = {name: run(batch) for name, run in present().items()}
    for generation in generations.values():  # once unmeasured
        generation()
    costs = in_turns(generations, lambda name, _: generations[name](), ROUNDS)
    print(f"\ndrawing {COUNT} codes of {batch} images at a time, one thread   ({conditions(ROUNDS)})")
    tell(costs, COUNT * batch, "codes")


def tell(costs: dict[str, list[float]], count: int, what: str) -> None:
    """Speeds, and how many times as long as the reference each took in the same round."""
    print(f"  {'':44}{what + '/cpu s':>14}{'min-max':>16}{'cpu ratio':>11}{'min-max':>14}")
    for name, own in costs.items():
        speeds = [count / seconds for seconds in own]
        ratios = [a / b for a, b in zip(own, costs[REFERENCE], strict=True)]
        print(
            f"  {name:44}{statistics.median(speeds):14,.0f}{f'{min(speeds):,.0f}-{max(speeds):,.0f}':>16}"
            f"{statistics.median(ratios):11.2f}{f'{min(ratios):.2f}-{max(ratios):.2f}':>14}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in map(int, sys.argv[1:] or ["1", "16"]):
        compete(size)
