"""A heartbeat between the processes of a run, so that one that is stopped or cut off does not hang all the others."""

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from zoo_core.errors import ConfigError, Stopped, TrainingError

log = logging.getLogger("zoo_core")

BEATS = 10  # in the time after which a process counts as silent
LEFT = 1 << 40  # more beats than any run has: who has left in peace
CONNECTING = timedelta(seconds=10)

_runs = itertools.count()  # runs that this process has watched: each has keys of its own


@contextmanager
def watch(rank: int, world: int, *, silence: float | None = None, folder: Path) -> Iterator[None]:
    """Ends this process with exit code 1 once another one of the run has been silent for too long.

    A collective operation cannot tell a process that works from one that hangs: it has to wait as long as the main
    process may save or encode, half an hour by default. So each process counts up in the store through which they
    found each other, from a thread, and looks how the others count. Time is added up only while this process runs
    and, for another process, while the store answers: a run that was frozen as a whole and thawed goes on. A store
    that does not answer is the main host's silence. One that leaves the context in peace, by its end or with
    ``SystemExit`` or ``Stopped``, says so and is waited for no longer; one that leaves by any other exception falls
    silent.

    Without a store, of which one line tells, nobody is watched.

    Args:
        rank: of this process, of ``world``.
        silence: for how many seconds one may be silent; by default ``ZOO_SILENCE``, or 15. Only what keeps all of
            Python waiting makes a process silent that works: a long call into C that holds the interpreter's lock.
        folder: the run's, to name the newest checkpoint when it is ended.

    Raises:
        ConfigError: ``ZOO_SILENCE`` is no number of seconds.
        TrainingError: inside, a collective operation failed because another process had gone.
    """
    store = _connect() if world > 1 else None
    if store is None:
        yield
        return
    heartbeat = Heartbeat(store, rank, world, silence=silence or seconds_of_silence(), folder=folder)
    heartbeat.start()
    try:
        yield
    except BaseException as error:
        heartbeat.end(in_peace=isinstance(error, (SystemExit, Stopped)))
        if is_lost_connection(error):
            raise TrainingError(
                f"the connection to another process broke: it failed, or was killed. {next_start(folder)}"
            ) from error
        raise
    else:
        heartbeat.end(in_peace=True)


def seconds_of_silence() -> float:
    """What the environment says."""
    given = os.environ.get("ZOO_SILENCE", "15")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"ZOO_SILENCE: must be a number of seconds above 0, got {given!r}")
    return seconds


class Heartbeat:
    """What one process shows of itself and sees of the others."""

    def __init__(self, store: Store, rank: int, world: int, *, silence: float, folder: Path) -> None:
        self.store, self.rank, self.silence, self.folder = store, rank, silence, folder
        self.interval = silence / BEATS
        self.beats = {other: 0 for other in range(world) if other != rank}  # as last read
        self.hosts: dict[int, str] = {}
        self.rounds = 0
        self.over, self.in_peace = threading.Event(), False
        # Two threads, since a store that has gone may answer a question only after a quarter of an hour.
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._judge)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def end(self, *, in_peace: bool) -> None:
        """No more beats; in peace, the others are told not to wait for any."""
        self.in_peace = in_peace
        self.over.set()
        for thread in self.threads:
            thread.join(2 * self.interval)

    def _beat(self) -> None:
        try:
            self.store.set(f"host/{self.rank}", socket.gethostname())
            while not self.over.is_set():
                self.store.add(f"beat/{self.rank}", 1)
                self.beats = {other: self.store.add(f"beat/{other}", 0) for other in self.beats}
                self._ask_for_hosts()
                self.rounds += 1
                self.over.wait(self.interval)
            if self.in_peace:
                self.store.add(f"beat/{self.rank}", LEFT)
        except RuntimeError as error:  # no more rounds, which the other thread sees
            log.debug("the store of the run does not answer: %s", error)

    def _ask_for_hosts(self) -> None:
        for other, beats in self.beats.items():
            if beats and other not in self.hosts:
                self.hosts[other] = self.store.get(f"host/{other}").decode()

    def _judge(self) -> None:
        silent = dict.fromkeys(self.beats, 0.0)
        unanswered, rounds, beats, clock = 0.0, self.rounds, self.beats, time.monotonic()
        while not self.over.wait(self.interval):
            now = time.monotonic()
            # Longer than that this process did not run itself, and so cannot tell.
            passed, clock = min(now - clock, 2 * self.interval), now
            if self.rounds == rounds:
                unanswered += passed
                if unanswered >= self.silence:
                    self.give_up("the main host of the run")
                continue
            unanswered, rounds, before, beats = 0.0, self.rounds, beats, self.beats
            for other in silent:
                counts = beats[other] != before[other] or beats[other] >= LEFT
                silent[other] = 0.0 if counts else silent[other] + passed
                # Before its first beat a process may still be importing.
                if silent[other] >= self.silence * (1 if beats[other] else 4):
                    self.give_up(f"process {other}" + (f" on {self.hosts[other]}" if other in self.hosts else ""))

    def give_up(self, who: str) -> None:
        """Ends this process, whatever it is doing."""
        if self.over.is_set():
            return
        silent = f"{who} has given no sign of life for {self.silence:g} s: it hangs, or cannot be reached"
        threading.Timer(5.0, os._exit, (1,)).start()  # who reads the line may hang, too
        os.write(2, f"error: {silent}. {next_start(self.folder)}\n".encode())
        os._exit(1)


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective operation has failed because another process has gone; gloo has no error of its own."""
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def next_start(folder: Path) -> str:
    manifests = sorted((folder / "checkpoints").glob("step-*/manifest.json"))
    start = f"goes on from {manifests[-1].parent}" if manifests else "starts anew, since there is no checkpoint yet"
    return f"Started again with the same command, the run {start}"


def _connect() -> Store | None:
    """A connection of its own to the store of the processes' group: one that waits holds up all others on it."""
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=CONNECTING, wait_for_workers=False)
    except (KeyError, ValueError, RuntimeError) as error:
        log.warning("no store to watch the other processes by (%s): one that hangs will hang all", error)
        return None
    return PrefixStore(f"zoo/watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_runs)}", store)
