"""The processes of a run: who they are, what they agree on, how they end."""

import fcntl
import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor, distributed

from zoo_core.errors import TrainingError
from zoo_core.training.processes.launch import command_that_works, refuse_silent_launch
from zoo_core.training.processes.watch import watch

LOCK = ".lock"


class Processes:
    """One process of a run, and its ties to the others.

    Args:
        trackers: to what reports go, by Accelerate's names; their files go into ``folder``.

    Raises:
        TrainingError: the processes were launched together but do not know of each other.
    """

    def __init__(self, trackers: Sequence[str] | None = (), folder: Path | None = None) -> None:
        refuse_silent_launch()
        self.trackers = _installed(trackers)
        self.accelerator = Accelerator(log_with=self.trackers or None, project_dir=folder and folder / "trackers")
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        _require_one_group(self.world)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether it is set in any process."""
        if self.world == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.float32, device=self.device)
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in told.tolist())

    def mean(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Scalars of the same names in all processes, meaned over these."""
        numbers = [float(value) for value in values.values()]
        if self.world > 1:
            sums = self.sum(torch.tensor(numbers, dtype=torch.float64, device=self.device))
            numbers = (sums / self.world).tolist()
        return dict(zip(values, numbers, strict=True))

    def sum(self, value: Tensor) -> Tensor:
        """A tensor added up over the processes."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value

    def all(self, value: Any) -> list[Any]:
        """What each process has, in all of them."""
        values = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def alone_in(self, folder: Path) -> Iterator[None]:
        """Inside, no other run works in the folder, which all processes see.

        Raises:
            TrainingError: another one does, or a host has another folder of that name; in all processes alike.
        """
        with ExitStack() as stack:
            with self.agreeing():
                if self.main:
                    stack.enter_context(_locked(folder))
            with self.agreeing():
                _require_shared(folder, self.all(_holder(folder))[0])
            yield

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """What one process refuses inside, all refuse, with its sentence."""
        problem = ""
        try:
            yield
        except (TrainingError, OSError) as error:
            problem = str(error)
        problem = next(filter(None, self.all(problem)), "")
        if problem:
            raise TrainingError(problem)

    def watched(self, folder: Path) -> AbstractContextManager[None]:
        """Inside, a process that stands still or cannot be reached ends all of them."""
        return watch(self.rank, self.world, folder=folder) if self.world > 1 else nullcontext()

    def main_first(self) -> AbstractContextManager[None]:
        """What is inside, the main process does before the others."""
        turn: AbstractContextManager[None] = self.accelerator.main_process_first()
        return turn

    def track(self, project: str, start: int) -> Callable[[Mapping[str, float], int], None]:
        """Begins to keep track; returns what takes values and their step.

        Args:
            start: what was written of later steps, in a life that was lost, is hidden.
        """
        if not self.trackers:
            return lambda values, step: None
        self.accelerator.init_trackers(project, init_kwargs={"tensorboard": {"purge_step": start + 1}})
        return lambda values, step: self.accelerator.log(dict(values), step=step)

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def shut_down(self) -> None:
        """Ends trackers and connections, once nothing holds on to a wrapped model any more."""
        self.wait()
        if self.world > 1:
            # gloo's threads have to end before the interpreter does: otherwise it aborts now and then.
            self.accelerator.free_memory()
            gc.collect()
        self.accelerator.end_training()


def leave(code: int) -> None:
    """Ends the process, at once where it is one of many: what gloo leaves behind aborts some interpreters' ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "WORLD_SIZE" in os.environ:
        os._exit(code)
    sys.exit(code)


def _installed(trackers: Sequence[str] | None) -> list[str]:
    """Those asked for, or TensorBoard if it is there.

    Raises:
        TrainingError: one is unknown or not installed.
    """
    known, there = {str(kind) for kind in LoggerType} - {"all"}, {str(kind) for kind in get_available_trackers()}
    if trackers is None:
        return ["tensorboard"] if "tensorboard" in there else []
    for name in trackers:
        if name not in known:
            raise TrainingError(f"training.trackers: no tracker {name!r}; there are: {', '.join(sorted(known))}")
        if name not in there:
            raise TrainingError(f"training.trackers: {name!r} is not installed: pip install {name}")
    return list(trackers)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(folder) or "another process"
            raise TrainingError(f"{holder} is at work in {folder}; wait for it, or choose another --output") from None
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield


def _holder(folder: Path) -> str:
    try:
        return (folder / LOCK).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _require_shared(folder: Path, holder: str) -> None:
    """Refuses a host whose folder of that name is not the main process's."""
    if _holder(folder) != holder:
        raise TrainingError(
            f"{socket.gethostname()} does not see the folder {folder} in which {holder} writes;"
            " give all hosts one shared --output"
        )


def _require_one_group(world: int) -> None:
    """Refuses processes that were launched together but do not know of each other.

    ``accelerate launch`` does that on a CPU, and each of them would write into the same folder.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world:
        raise TrainingError(
            f"{launched} processes were launched but each trains alone; on a CPU use: {command_that_works(launched)}"
        )
