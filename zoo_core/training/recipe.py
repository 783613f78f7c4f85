"""A recipe: everything a run depends on, as one file of dictionaries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from zoo_core.arguments import Bounds, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from zoo_core.errors import ConfigError
from zoo_core.training.tuning.lora import Lora

TwoOrMore = Annotated[int, Bounds("an integer of at least 2", low=2)]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where examples come from.

    Attributes:
        name: a registered data set, a folder, or a Hub id: what ``zoo_core.data.load`` takes.
        split, held_out: the splits for training and for evaluation.
        options: passed to the data set.
        preprocessing: arguments of ``zoo_core.data.Preprocessing``.
    """

    name: str
    split: str = "train"
    held_out: str = "test"
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How weights are fitted.

    Attributes:
        steps: optimiser steps; or ``epochs`` instead, passes over the data.
        batch: examples per step, over all processes together.
        micro_batch: examples that go through the model at a time, in each process: the rest of a step's share follows
            one after another, and their gradients are added up. None for a process's whole share. Noise and terms
            that look at other examples belong to a micro-batch, so that with a given one a run is the same function
            of its seed on any number of processes.
        drop_last: leave out the last examples of an epoch that fill no batch; otherwise they are a smaller batch.
        lr, schedule, warmup: peak learning rate, how it falls, and over how many steps it rises.
        clip: largest norm of the gradient; None leaves it.
        precision: ``bf16`` runs the model under autocast, with log-probabilities and weights in float32; ``no`` is
            float32 throughout; ``auto`` is ``bf16`` where the hardware computes in it.
        ema: decay of a running mean of the weights, which is then what is measured, shown and published.
        compile: compile the networks inside of the model's parts with ``torch.compile``.
        channels_last: lay out images and convolutions with the channels last in memory.
        parallel: how processes share the model: each has a copy (``ddp``), or a share of its weights (``fsdp``).
        recompute: compute the insides of repeated blocks again in the backward pass instead of keeping them.
        freeze: parts of the model that stay as they are, by dotted names or shell patterns.
        lora: train low-rank adapters instead of the weights: their rank, alpha, dropout and targets.
        log_every, evaluate_every, save_every, sample_every: in steps; 0 means only at the end.
        keep: how many of the newest checkpoints stay, beside the best one.
        monitor: which of the terms measured on held-out data tells the best checkpoint: the smallest.
        patience: how many evaluations without a better one end the run; None for no end before its steps.
        publish: whether the model as it is at the ``last`` step, or at the ``best`` evaluated one, is the result.
        trackers: to what reports go beside the log, by Accelerate's names; None for TensorBoard if it is installed.
        tolerance: a fit by statistics ends when its objective gains less than this share of itself.
    """

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    batch: PositiveInt = 128
    micro_batch: PositiveInt | None = None
    drop_last: bool = True
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: PositiveFloat = 1e-3
    betas: Sequence[float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["constant", "linear", "cosine", "burda"] = "constant"
    warmup: NonNegativeInt = 0
    clip: PositiveFloat | None = None
    precision: Literal["auto", "no", "bf16"] = "auto"
    ema: Probability | None = None
    compile: bool = False
    channels_last: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    recompute: bool = False
    freeze: Sequence[str] = ()
    lora: Mapping[str, Any] | None = None
    seed: NonNegativeInt = 0
    log_every: PositiveInt = 100
    evaluate_every: NonNegativeInt = 0
    save_every: NonNegativeInt = 1000
    sample_every: NonNegativeInt = 0
    keep: TwoOrMore = 2
    monitor: str = "loss"
    patience: PositiveInt | None = None
    publish: Literal["last", "best"] = "last"
    trackers: Sequence[str] | None = None
    tolerance: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError("steps: give either 'steps' or 'epochs'")
        if self.lora is not None:
            Lora.from_dict(self.lora, "lora")
        if self.micro_batch and self.batch % self.micro_batch:
            raise ConfigError(f"micro_batch: {self.micro_batch} must divide 'batch', {self.batch}")
        if (self.patience or self.publish == "best") and not self.evaluate_every:
            raise ConfigError(
                "evaluate_every: 'patience' and 'publish: best' need evaluations; say every how many steps"
            )

    def iterations(self) -> int:
        """The number of passes over the data, for a fit by statistics."""
        return self.steps or max(1, round(self.epochs or 0))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured on the held-out split when training ends, and, if asked for, on the way.

    Attributes:
        metrics: configs of metrics, for the end; on the way the loss's own terms are reported.
        batch: examples at a time.
        examples: how many of the split; None for all.
    """

    metrics: Sequence[Any] = ()
    batch: PositiveInt = 100
    examples: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: ``model`` and ``loss`` are configs; ``summary`` is one line for lists and cards.

    A model that is fitted by statistics (``StatisticalModel``) has no loss, and its steps are iterations.
    """

    name: str
    summary: str = ""
    model: Mapping[str, Any]
    loss: Any = None
    data: Data
    training: Training
    evaluation: Evaluation = field(default_factory=Evaluation)

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it; ``parse_recipe`` takes it back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain
