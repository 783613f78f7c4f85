"""A decoder-only transformer, and the keys and values that it keeps while it writes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo_dalle.masks import Layout, Mask, mask_on

ROOM = 32  # tokens; buffers of the final size would leave gaps between the heads, and be read half as fast


class Memory:
    """Keys and values of the tokens that have been seen, (2, B, heads, T, head_dim) of each layer, T growing by ROOM.

    Attributes:
        length: how many tokens there are.
    """

    def __init__(self, transformer: "Transformer", batch: int) -> None:
        first = next(transformer.parameters())
        dtype = torch.get_autocast_dtype(first.device.type) if _autocasting(first) else first.dtype
        shape = (2, batch, transformer.heads, 0, transformer.head_dim)
        self.layers = [torch.empty(shape, device=first.device, dtype=dtype) for _ in transformer.blocks]
        self.length = 0

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps those of new tokens (B, heads, N, head_dim), and returns those of all tokens."""
        kept, end = self.layers[layer], self.length + k.shape[2]
        if end > kept.shape[3]:
            kept = self.layers[layer] = F.pad(kept, (0, 0, 0, end + ROOM - kept.shape[3]))
        kept[0, :, :, self.length : end], kept[1, :, :, self.length : end] = k, v
        return kept[0, :, :, :end], kept[1, :, :, :end]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(head_dim)) v, of several heads."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, memory: Memory | None = None, layer: int = 0) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if memory is not None:
            k, v = memory.add(layer, k, v)
        # One query after many keys looks at all of them, which causal would not let it.
        causal = mask is None and length > 1
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        attended: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return attended


class Block(nn.Module):
    """x + attention(norm(x)), and of that x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, head_dim: int, widening: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(dim), Attention(dim, heads, head_dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, widening * dim), nn.GELU(), nn.Linear(widening * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None, memory: Memory | None = None, layer: int = 0) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask, memory, layer)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class Transformer(nn.Module):
    """Blocks of causal attention and of MLPs, with a norm at the end (Radford et al., 2019).

    Args:
        masks: the kind of each block's.
        layout: of the stream.
        widening: the hidden width of the MLPs, in dims.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        masks: Sequence[Mask],
        layout: Layout,
        widening: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.checkpointing = heads, head_dim, checkpointing
        self.masks, self.layout = masks, layout
        self.blocks = nn.ModuleList(Block(dim, heads, head_dim, widening) for _ in masks)
        self.norm = nn.LayerNorm(dim)
        self._initialise()

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens (B, N, dim) after those in the memory, which then holds them too → features (B, N, dim)."""
        start = 0 if memory is None else memory.length
        for i, block in enumerate(self.blocks):
            mask = self._rows(self.masks[i], start, start + x.shape[1], x.device)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask, memory, i)
        if memory is not None:
            memory.length = start + x.shape[1]
        features: Tensor = self.norm(x)
        return features

    def _rows(self, kind: Mask, start: int, end: int, device: torch.device) -> Tensor | None:
        """The mask of tokens start to end, as queries after those before them; None where causality says it all."""
        if kind == "full" and (start == 0 or end == start + 1):
            return None
        return mask_on(device, kind, self.layout)[start:end, :end]

    def _initialise(self) -> None:
        """As GPT-2: normal of 0.02, and what is added to the stream the smaller, the more is added."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        blocks: Any = self.blocks
        added = [linear for block in blocks for linear in (block.attention.out, block.mlp[-1])]
        for linear in added:
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(len(added)))


def _autocasting(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)
