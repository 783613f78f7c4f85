"""Calls in threads of their own, which never keep a program from ending."""

import atexit
import time
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Generic, TypeVar
from weakref import WeakSet

Out = TypeVar("Out")

PATIENCE = 2.0  # seconds


class Begun(Generic[Out]):
    """A call that runs in a background thread from now on.

    The thread is a daemon: a program that ends does not wait for an answer that may never come. It waits
    ``PATIENCE``, since a thread that is in the midst of compiled code when the interpreter goes can crash.
    """

    def __init__(self, call: Callable[[], Out]) -> None:
        self._call = call
        self._result: Out | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        _running.add(self._thread)

    def wait(self) -> None:
        """Until the call has ended, in whatever way."""
        self._thread.join()

    def result(self) -> Out:
        """What it returned, or raises what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # it is set where there was no error

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # raised where the result is asked for
            self._error = error


def in_threads(function: Callable[[int], Out], count: int, threads: int) -> list[Out]:
    """``[function(0), …, function(count - 1)]``, so many at a time."""
    if threads == 1:
        return [function(i) for i in range(count)]
    done: list[Out] = []
    for first in range(0, count, threads):
        begun = [Begun(partial(function, i)) for i in range(first, min(first + threads, count))]
        done += [call.result() for call in begun]
    return done


_running: WeakSet[Thread] = WeakSet()


@atexit.register
def _wait_for_running() -> None:
    end = time.monotonic() + PATIENCE
    for thread in list(_running):
        thread.join(max(0.0, end - time.monotonic()))
