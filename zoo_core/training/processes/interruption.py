"""Being told to stop: by a scheduler that wants the machine back, or by a person."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HEARD = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Inside, the first SIGTERM or Ctrl-C is only noted, in ``heard``; a second one acts as it always does."""

    def __init__(self) -> None:
        self.heard = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            self.before = {number: signal.signal(number, self._hear) for number in HEARD}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._let_go()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        self._let_go()

    def _let_go(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
