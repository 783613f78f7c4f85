"""Which way of wrapping a run takes."""

from typing import Literal

from accelerate import Accelerator

from zoo_core.training.processes.wrapping import DDP, Alone, Wrapping


def wrapping(accelerator: Accelerator, parallel: Literal["ddp", "fsdp"]) -> Wrapping:
    """The way of wrapping for the processes there are; one process alone has nothing to share."""
    if accelerator.num_processes == 1:
        return Alone(accelerator.device)
    if parallel == "ddp":
        return DDP(accelerator.device)
    # It takes a second to import.
    from zoo_core.training.processes.sharding import FSDP

    return FSDP(accelerator.device)
