"""Training a transformer over 32 text tokens and 256 codes, in the zoo and in dalle-pytorch: tokens per second.

A step is forward, backward and an update by AdamW, of 8 streams of 288 tokens; dim 256, 6 layers, 8 heads, about 7.9 M
parameters. They take turns in one process of one thread. See ``generation.py`` for the sizes, and for how dalle-pytorch
is installed; its heads have 32 dims as the zoo's, and 64 as it comes. The zoo's step is that of the loss
``dalle/text_image`` from tokens and codes on, with the padding of short captions left aside.

    python benchmarks/text_image_training.py
"""

from collections.abc import Callable
from typing import Any

import torch
from generation import CODES, COUNT, REFERENCE, TEXT, cpu_seconds, dalle_pytorch, installed, tell, words, zoo_stream
from rounds import conditions, in_turns
from torch import Tensor, nn
from zoo_dalle.dalle import taken

BATCH, STEPS, ROUNDS, RATE, TEXT_WEIGHT = 8, 2, 7, 1e-4, 1 / 8
Step = Callable[[], float]  # a few steps; the CPU seconds of that


def stepping(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], bf16: bool) -> Step:
    """Steps on one batch of tokens (B, TEXT) and codes (B, COUNT)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    tokens, codes = words(BATCH), torch.randint(CODES, (BATCH, COUNT))

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                total = loss(tokens, codes)
            total.backward()
            optimizer.step()

    return lambda: cpu_seconds(steps)


def by_zoo(bf16: bool = False, widening: int = 6) -> Step:
    stream = zoo_stream(widening).train()
    starts = torch.zeros(BATCH, dtype=torch.int64)

    def loss(tokens: Tensor, codes: Tensor) -> Tensor:
        of_text, of_codes = stream(starts, tokens, codes)
        text, image = taken(of_text, tokens).mean(1), taken(of_codes, codes).mean(1)
        return -(TEXT_WEIGHT * text + (1 - TEXT_WEIGHT) * image).mean()

    return stepping(stream, loss, bf16)


def by_dalle_pytorch(bf16: bool = False, dim_head: int = 32) -> Step:
    model: Any = dalle_pytorch(dim_head).train()
    return stepping(model, lambda tokens, codes: model(tokens, codes, return_loss=True), bf16)


CONTESTANTS: dict[str, tuple[str | None, Callable[[], Step]]] = {
    REFERENCE: (None, by_zoo),
    "zoo, bf16 autocast": (None, lambda: by_zoo(bf16=True)),
    "zoo, hidden layers of 4 dims (6.3 M)": (None, lambda: by_zoo(widening=4)),
    "dalle-pytorch, heads of 32": ("dalle_pytorch", by_dalle_pytorch),
    "dalle-pytorch, heads of 32, bf16 autocast": ("dalle_pytorch", lambda: by_dalle_pytorch(bf16=True)),
    "dalle-pytorch, heads of 64": ("dalle_pytorch", lambda: by_dalle_pytorch(dim_head=64)),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    contestants = {name: make() for name, (package, make) in CONTESTANTS.items() if not package or installed(package)}
    for step in contestants.values():  # once unmeasured
        step()
    costs = in_turns(contestants, lambda name, _: contestants[name](), ROUNDS)
    title = f"training on {BATCH} streams of {TEXT} + {COUNT} tokens, forward, backward and AdamW"
    print(f"\n{title}   ({conditions(ROUNDS)})")
    tell(costs, STEPS * BATCH * (TEXT + COUNT), "tokens")
