"""Starting a run on several processes and hosts, and refusing launches that would silently do something else."""

import contextlib
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zoo_core.errors import STOPPED, ConfigError, TrainingError

DONE, FAILED, BAD_INPUT = 0, 1, 2
MODULE = "zoo_core.training"
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds for the other processes to end by themselves, once one has stopped or failed.
AFTER_STOP, AFTER_FAILURE = 30.0, 10.0
UNANSWERED = 15.0  # seconds without the main host's launcher
FAILURES = "zoo/failures"
TOLD = 20  # lines of what a process said before it failed


@dataclass
class Hosts:
    """Where a run's processes are: shared evenly by ``machines`` hosts, of which this is number ``rank``.

    Args:
        address: of host 0, as the others reach it.
        port: of host 0, free there; 0 chooses one, which only works on a single host.

    Raises:
        ConfigError: these cannot be.
    """

    machines: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        if self.machines < 1 or not 0 <= self.rank < self.machines:
            raise ConfigError(
                f"--machine-rank {self.rank}: hosts are numbered from 0 to --num-machines - 1 = {self.machines - 1}"
            )
        if self.machines > 1 and not self.port:
            raise ConfigError("--main-port: give the same free port of the main host on all hosts, such as 29500")
        if self.machines > 1 and self.address == "127.0.0.1" and self.rank:
            raise ConfigError("--main-address: give the address of the host with --machine-rank 0")


def launch(arguments: Sequence[str], processes: int, hosts: Hosts | None = None, *, module: str | None = None) -> int:
    """Runs ``python -m module *arguments``, by default a training, in several processes that know of each other.

    What the main process tells is told; of another one, only its last lines if it is the first to fail. SIGTERM,
    SIGINT and SIGHUP are passed on (the last as SIGTERM), and the processes end by themselves. Once one has stopped or
    failed, the others have ``AFTER_STOP`` or ``AFTER_FAILURE`` seconds for that. Processes keep the user's
    ``OMP_NUM_THREADS``, or share this host's cores, and train on the CPU where there is no GPU.

    Args:
        processes: over all hosts, each of which is given the same command but for its number.

    Returns:
        The run's exit code: 0 done, 75 all stopped and to be started again as they were, 2 bad input, 1 failed.

    Raises:
        ConfigError: they cannot be placed: more than the GPUs, or not the same number on each host.
        TrainingError: the main host's port is taken.
    """
    hosts = hosts or Hosts()
    here = _share(processes, hosts.machines)
    store = open_store(hosts) if hosts.rank == 0 else None  # it must live as long as the processes
    common = _environment(processes, here, hosts, store.port if store else hosts.port)
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(_Child([module or MODULE, *arguments], hosts.rank * here + k, k, common))
            for k in range(here)
        ]
        signals = stack.enter_context(_passed_on(children))
        others = stack.enter_context(_OtherHosts(hosts))
        ended = _ends(children, others)
        code, sentence = _verdict(ended, signals, processes)
    if sentence:
        print(f"error: {sentence}", file=sys.stderr)
    return code


class _Child:
    """One process of a run, the leader of a session: Ctrl-C reaches it through the launcher alone."""

    def __init__(self, arguments: Sequence[str], rank: int, local_rank: int, common: Mapping[str, str]) -> None:
        self.rank, self.killed = rank, False
        self.command = [sys.executable, "-m", *arguments]
        self.environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(local_rank)}

    def __enter__(self) -> "_Child":
        self.errors: IO[bytes] = tempfile.TemporaryFile()
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": self.errors} if self.rank else {}
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdin=subprocess.DEVNULL, start_new_session=True, **quiet
        )
        return self

    def __exit__(self, *failure: object) -> None:
        self.kill()
        self.process.wait()
        self.errors.close()

    def kill(self) -> None:
        """With whatever it has started."""
        if self.process.poll() is None:
            self.killed = True
            os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def code(self) -> int:
        return int(self.process.returncode)

    def last_lines(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-TOLD:])


class _OtherHosts:
    """What the launchers of a run's hosts know of each other: whether it has failed anywhere.

    One that hangs can be ended by the launcher of its own host alone, which nobody else would tell.
    """

    def __init__(self, hosts: Hosts) -> None:
        self.hosts, self.failed, self.over = hosts, threading.Event(), threading.Event()
        self.told, self.answered = False, float("inf")  # a host that is still to come is waited for
        self.thread = threading.Thread(target=self._ask, daemon=True)  # the store may never answer

    def __enter__(self) -> "_OtherHosts":
        if self.hosts.machines > 1:
            self.thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.over.set()
        if self.hosts.machines > 1:
            self.thread.join(2.0)

    def patience(self) -> float:
        """Seconds that the processes of this host have left to end by themselves; infinite while all is well."""
        if self.hosts.machines == 1 or self.told:
            return float("inf")
        if self.failed.is_set():
            return AFTER_FAILURE
        return AFTER_STOP if time.monotonic() - self.answered > UNANSWERED else float("inf")

    def tell(self) -> None:
        """The run has failed on this host."""
        self.told = True

    def _ask(self) -> None:
        try:
            where, waiting = (self.hosts.address, self.hosts.port), timedelta(minutes=5)
            store = TCPStore(*where, is_master=False, wait_for_workers=False, timeout=waiting)
            while not self.over.is_set():
                if store.add(FAILURES, 0) and not self.told:
                    self.failed.set()
                self.answered = time.monotonic()
                self.over.wait(1.0)
            if self.told:
                store.add(FAILURES, 1)
                time.sleep(0 if self.hosts.rank else 1.5)  # with this host the store goes: the others ask once a second
        except RuntimeError:
            pass  # it has gone, or never came


def _ends(children: Sequence[_Child], others: _OtherHosts) -> list[_Child]:
    """The children in the order in which they ended."""
    running, ended, deadline = list(children), list[_Child](), float("inf")
    while running:
        for child in [child for child in running if child.process.poll() is not None]:
            running.remove(child)
            ended.append(child)
            if child.code not in (DONE, STOPPED):
                others.tell()
            if child.code:
                deadline = min(deadline, time.monotonic() + (AFTER_STOP if child.code == STOPPED else AFTER_FAILURE))
        deadline = min(deadline, time.monotonic() + others.patience())
        if time.monotonic() > deadline:
            for child in running:
                child.kill()
        time.sleep(0.02)
    return ended


@contextlib.contextmanager
def _passed_on(children: Sequence[_Child]) -> Iterator[list[signal.Signals]]:
    """Signals that reach the launcher reach the run; yields the list of those that came."""
    came: list[signal.Signals] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        for child in children:
            if child.process.poll() is None:
                # Who has lost the terminal wants to go on later.
                child.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    # What is ignored, as under nohup, stays so.
    heard = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
    before = [(number, signal.signal(number, pass_on)) for number in heard]
    try:
        yield came
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _verdict(ended: Sequence[_Child], signals: Sequence[signal.Signals], processes: int) -> tuple[int, str]:
    """The run's exit code, and what is to be said beyond what the main process has told itself."""
    failed = [child for child in ended if child.code not in (DONE, STOPPED)]
    if not failed:
        return max(child.code for child in ended), ""
    first = next((child for child in failed if not child.killed), failed[0])
    who, code = f"process {first.rank} of {processes}", BAD_INPUT if first.code == BAD_INPUT else FAILED
    if first.killed:
        return code, f"{who} did not end by itself after another had, and was killed; checkpoints stay"
    if signals and first.code == -signals[-1]:
        return code, f"{signals[-1].name} ended the run before it could save; checkpoints stay"
    if first.code < 0:
        memory = ", as when memory is short" if first.code == -signal.SIGKILL else ""
        name = signal.Signals(-first.code).name
        return code, f"{name} ended {who}{memory}; started again with the same command, the run goes on"
    if first.rank == 0 or code == BAD_INPUT:  # which all see alike
        return code, ""
    return code, f"{who} failed first (exit code {first.code}); it said:\n{first.last_lines() or 'nothing'}"


def _share(processes: int, machines: int) -> int:
    """How many processes each host has."""
    if processes < machines or processes % machines:
        raise ConfigError(
            f"--num-processes {processes}: counts those of all hosts, and must be a multiple of"
            f" --num-machines {machines}"
        )
    here = processes // machines
    if 0 < gpus() < here:
        raise ConfigError(
            f"--num-processes {processes}: each needs a GPU of its own, and this host has {gpus()};"
            " ACCELERATE_USE_CPU=true in the environment trains on the CPU"
        )
    return here


def gpus() -> int:
    """How many there are to be used."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "on", "t")
    return 0 if on_cpu else torch.accelerator.device_count()


def open_store(hosts: Hosts) -> TCPStore:
    """Where the processes find each other; with the launcher it outlives any of them."""
    alone = hosts.machines == 1
    try:
        # A store has no password: on a single host nobody else shall reach it.
        listener = socket.create_server((hosts.address if alone else "", hosts.port))
        port, waiting = listener.getsockname()[1], timedelta(minutes=5)
        return TCPStore(
            *(hosts.address, port), is_master=True, wait_for_workers=False, timeout=waiting,
            master_listen_fd=listener.detach(),
        )  # fmt: skip
    except OSError as error:
        raise TrainingError(
            f"port {hosts.port} of this host cannot be used ({error.strerror}); choose another"
        ) from None


def _environment(processes: int, here: int, hosts: Hosts, port: int) -> dict[str, str]:
    """What the processes of this host have in common: the variables that torchrun sets, and what CPUs need."""
    environment = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(here),
        "MASTER_ADDR": hosts.address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the launcher's, and process 0 opens none
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(len(os.sched_getaffinity(0)) // here, 1)))
    if not gpus():
        environment["ACCELERATE_USE_CPU"] = "true"
    interface = _interface_towards(hosts.address, port) if hosts.machines > 1 else ""
    if interface:  # gloo looks up the host's own name, which is often 127.0.1.1, and then no other host finds it
        environment.setdefault("GLOO_SOCKET_IFNAME", interface)
    return environment


def _interface_towards(address: str, port: int) -> str:
    """The network interface from which packets to an address leave, or an empty string."""
    import psutil  # type: ignore[import-untyped]

    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return ""
    names = [name for name, has in psutil.net_if_addrs().items() if any(a.address == own for a in has)]
    return str(names[0]) if names else ""


def command_that_works(processes: int) -> str:
    """The command that does what this process does, on so many processes of this host."""
    variable = "ACCELERATE_USE_CPU=true " if 0 < gpus() < processes else ""
    return f"{variable}zoo {_command(sys.argv)} --num-processes {processes}"


def _command(words: Sequence[str]) -> str:
    if words[1:2] == ["eval"]:
        return shlex.join(words[1:])
    return f"train {shlex.join(words[1:])}" if _is_run(words[0]) else "train RECIPE"


def _is_run(script: str) -> bool:
    """Whether this process is ``python -m zoo_core.training``, whose arguments are those of ``zoo train``."""
    return Path(script).resolve() == Path(__file__).resolve().parents[1] / "__main__.py"


def refuse_silent_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses what Accelerate would take for something else without a word.

    Raises:
        TrainingError: with the command that does what was meant.
    """
    asked = 1 if "WORLD_SIZE" in environment else asked_of_accelerate(parent_command())
    if asked > 1:
        raise TrainingError(
            f"accelerate launch was asked for {asked} processes, but without several GPUs it starts a single one;"
            f" use: {command_that_works(asked)}"
        )
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        processes = int(environment.get("WORLD_SIZE", "1"))
        raise TrainingError(
            "a run shards its model by itself, and with Accelerate's FSDP every process would hold the whole of it; the"
            f" setting training.parallel=fsdp does it: {command_that_works(processes)} --set training.parallel=fsdp"
        )


def parent_command() -> list[str]:
    import psutil

    try:
        parent = psutil.Process().parent()
        return list(parent.cmdline()) if parent else []
    except psutil.Error:
        return []


def asked_of_accelerate(command: Sequence[str]) -> int:
    """How many processes a command asks of ``accelerate launch``; 1 if it is another one or cannot be read."""
    options = _launch_options(command)
    if options is None:
        return 1
    try:
        from accelerate.commands.config.config_args import default_config_file, load_config_from_file
        from accelerate.commands.launch import launch_command_parser

        with contextlib.redirect_stderr(io.StringIO()):
            given = launch_command_parser().parse_args(options)
        if given.num_processes is not None:
            return int(given.num_processes)
        if given.config_file or (Path(default_config_file).is_file() and not given.cpu):
            return int(load_config_from_file(given.config_file).num_processes)
        return 1
    except (Exception, SystemExit):  # another version of Accelerate, which is no reason to refuse a run
        return 1


def _launch_options(command: Sequence[str]) -> list[str] | None:
    """What follows ``accelerate launch``, in whichever way it is spelled; None for any other command."""
    for place, word in enumerate(command[:4]):
        name, rest = Path(word).name, list(command[place + 1 :])
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return rest
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and rest[:1] == ["launch"]:
            return rest[1:]
    return None
