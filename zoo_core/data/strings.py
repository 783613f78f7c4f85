"""Many strings in two tensors, so that they can be memory mapped."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Strings:
    """A column of strings: their UTF-8 bytes end to end, and where each ends.

    Args:
        data: uint8 (bytes of all strings,).
        ends: int64 (strings,), ascending; string i is ``data[ends[i - 1] : ends[i]]``.
    """

    def __init__(self, data: Tensor, ends: Tensor) -> None:
        self.data, self.ends = data, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Strings":
        """Packs strings; what UTF-8 cannot express (lone surrogates) becomes a question mark."""
        encoded = [text.encode(errors="replace") for text in texts]
        lengths = torch.tensor([len(text) for text in encoded], dtype=torch.int64)
        # frombuffer refuses an empty buffer.
        data = torch.frombuffer(bytearray(b"".join(encoded) + b"\n"), dtype=torch.uint8)[:-1]
        return cls(data, lengths.cumsum(0))

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, indices: Tensor) -> list[str]:
        """The strings at these places, int64 (B,)."""
        ends = self.ends[indices]
        # Below zero there is no string before the first.
        starts = torch.where(indices > 0, self.ends[(indices - 1).clamp(min=0)], 0)
        return [self._text(a, b) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def _text(self, start: int, end: int) -> str:
        return self.data[start:end].numpy().tobytes().decode()
