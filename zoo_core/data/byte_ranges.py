"""Parts of files, wherever they lie: on this machine, or in a repository on the Hub."""

import abc
import io
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from zoo_core.data.strings import Strings
from zoo_core.errors import DataError


class Files(abc.ABC):
    """Files by number, whose content stays what it was when they were opened.

    Args:
        paths: where they lie; few bytes of memory are used for each, so that there may be millions.

    Attributes:
        at_once: how many are worth reading at a time.

    Raises:
        DataError: one cannot be read, or it is no longer what it was; names the file. So do the methods.
    """

    at_once: ClassVar[int] = 1

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = Strings.of(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, number: int) -> str:
        return self._paths.take(torch.tensor([number]))[0]

    @abc.abstractmethod
    def size(self, number: int) -> int:
        """In bytes."""

    @abc.abstractmethod
    def identity(self, number: int) -> str:
        """What tells the content from another, as far as that is known without reading it."""

    @abc.abstractmethod
    def read(self, number: int, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes in [start, stop), to the end by default."""


class LocalFiles(Files):
    """Files on this machine. One whose size or time of change is no longer what it was is refused."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(paths)
        self._facts = torch.tensor([_facts(path) for path in paths], dtype=torch.int64).view(-1, 2)

    def size(self, number: int) -> int:
        return int(self._facts[number, 0])

    def identity(self, number: int) -> str:
        return str(self.size(number))

    def read(self, number: int, start: int = 0, stop: int | None = None) -> bytes:
        path = self.path(number)
        try:
            with open(path, "rb") as file:
                if list(_told(os.fstat(file.fileno()))) != self._facts[number].tolist():
                    raise DataError(f"{path} has changed since the data set was opened; load it again")
                file.seek(start)
                return file.read(-1 if stop is None else stop - start)
        except OSError as error:
            raise _unreadable(path, error) from error


class HubFiles(Files):
    """Files of a commit on the Hub, ``hf://datasets/organisation/name@commit/path``, by requests for ranges."""

    at_once = 16

    def __init__(self, paths: Sequence[str]) -> None:
        from huggingface_hub import HfFileSystem

        super().__init__(paths)
        self._system = HfFileSystem()

    def size(self, number: int) -> int:
        return int(self._told(number)["size"])

    def identity(self, number: int) -> str:
        return str(self._told(number)["blob_id"])

    def read(self, number: int, start: int = 0, stop: int | None = None) -> bytes:
        path = self.path(number)
        try:
            # Without a cache type, some megabytes beyond would be read ahead.
            content: bytes = self._system.cat_file(path, start or None, stop, cache_type="none")
        except Exception as error:  # of half a dozen types, by where it failed
            raise _unreadable(path, error) from error
        return content

    def _told(self, number: int) -> dict[str, Any]:
        path = self.path(number)
        try:
            told: dict[str, Any] = self._system.info(path)
        except Exception as error:
            raise _unreadable(path, error) from error
        return told


class Fetched(io.RawIOBase):
    """A file of which some parts are in memory; any other is read when it is asked for.

    Args:
        parts: bytes, and where each starts.
    """

    def __init__(self, files: Files, number: int, parts: Sequence[tuple[int, bytes]]) -> None:
        super().__init__()
        self._files, self._number, self._parts = files, number, parts
        self._size, self._place = files.size(number), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._size, self._place + size)
        content = self._between(self._place, stop)
        self._place += len(content)
        return content

    def _between(self, start: int, stop: int) -> bytes:
        for first, content in self._parts:
            if first <= start and stop <= first + len(content):
                return content[start - first : stop - first]
        return self._files.read(self._number, start, stop) if start < stop else b""


def _facts(path: str) -> tuple[int, int]:
    try:
        return _told(os.stat(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _told(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _unreadable(path: str, error: Exception) -> DataError:
    reason = (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(f"{path} cannot be read: {reason}")
