"""Which examples a step sees: a pure function of seed and step, so that resuming needs no state."""

from torch import Tensor

from zoo_core.data import Dataset
from zoo_core.errors import TrainingError
from zoo_core.randomness import derived_seed
from zoo_core.training.recipe import Training


class Order:
    """Each epoch is a permutation of its own, cut into batches, and each of these into micro-batches.

    Args:
        world: the number of processes: they take the micro-batches in turn, and one each if no size is given.

    Attributes:
        parts: how many micro-batches a batch has.
        steps_per_epoch: how many batches the data are.

    Raises:
        TrainingError: the processes cannot share a batch evenly, or the data do not fill one.
    """

    def __init__(self, data: Dataset, settings: Training, world: int) -> None:
        self.data, self.batch, self.seed = data, settings.batch, settings.seed
        self.parts = settings.batch // settings.micro_batch if settings.micro_batch else world
        self.permutations: dict[int, Tensor] = {}
        full, rest = divmod(len(data), self.batch)
        # Fewer examples than there are micro-batches would leave a process without any.
        self.steps_per_epoch = full + (not settings.drop_last and rest >= self.parts)
        self._require_shares(settings.micro_batch, world)

    def steps(self, settings: Training) -> int:
        """How many steps a recipe asks for."""
        return settings.steps or max(1, round((settings.epochs or 0) * self.steps_per_epoch))

    def step(self, step: int) -> Tensor:
        """The examples of a step, (batch,) or fewer at the end of an epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self.permutations:
            # Two are kept, for the next batch is asked for while the present one is at work.
            kept = {near: order for near, order in self.permutations.items() if abs(near - epoch) == 1}
            self.permutations = {**kept, epoch: self.data.order(derived_seed(self.seed, epoch))}
        return self.permutations[epoch][place * self.batch : (place + 1) * self.batch]

    def part(self, step: int, number: int) -> Tensor:
        """The examples of a step's micro-batch, from 0 to ``parts`` - 1."""
        return self.step(step)[number :: self.parts]

    def _require_shares(self, micro_batch: int | None, world: int) -> None:
        if self.parts % world or self.batch % self.parts:
            share = micro_batch or 1
            raise TrainingError(
                f"training.batch: {self.batch} cannot be shared by {world} processes"
                f"{f' in micro-batches of {micro_batch}' if micro_batch else ''}; use a multiple of {share * world}"
            )
        if not self.steps_per_epoch:
            raise TrainingError(f"training.batch: {self.batch} is more than the {len(self.data)} examples there are")
