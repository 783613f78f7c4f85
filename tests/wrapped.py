"""A model around another, for tests: its files are those of the inner one."""

from collections.abc import Mapping

from torch import Tensor

from zoo_core import GenerativeModel


class Wrapped(GenerativeModel):
    """p(x) of the inner model."""

    def __init__(self, inner: GenerativeModel) -> None:
        super().__init__()
        self.inner = inner
        self.data_shape = inner.data_shape

    def draw(self, n: int) -> Tensor:
        return self.inner.draw(n)

    def files(self) -> Mapping[str, bytes]:
        return self.inner.files()

    def take_files(self, files: Mapping[str, bytes]) -> None:
        self.inner.take_files(files)
