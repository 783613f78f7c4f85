"""The contracts: what an encoder, a decoder, a prior, … is to everything else in the zoo.

Shapes: B batch, K samples, D latent. Values are nats per example unless a name says otherwise.
Distributions: ``batch_shape`` holds the leading dimensions, ``event_shape`` one latent or one datum.
"""

import abc
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_core import arguments
from zoo_core.data import Dataset, Preprocessing
from zoo_core.distributions import require_density, require_same_measure
from zoo_core.errors import ConfigError
from zoo_core.randomness import drawing_from

Batch = Mapping[str, Any]  # "image" (B, C, H, W) float, "label" (B,) int, "caption" list of B strings, …


class ComponentMeta(abc.ABCMeta):
    """Checks a constructor's arguments against its annotations, and keeps them for ``describe``."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        bound = arguments.signature(cls).bind(*args, **kwargs)
        bound.apply_defaults()
        for name, parameter in arguments.parameters(cls).items():
            path = f"{cls.__name__}.{name}"
            bound.arguments[name] = arguments.checked(bound.arguments[name], parameter.annotation, path)
        component = super().__call__(*bound.args, **bound.kwargs)
        component.arguments = {
            name: value for name, value in bound.arguments.items() if not cls.has_part(component, name, value)
        }
        return component

    def has_part(cls, component: "Component", name: str, value: Any) -> bool:
        """Whether the argument ``name`` is itself a component, kept as the attribute of that name."""
        if not arguments.parameters(cls)[name].component_types():
            return False
        kept = getattr(component, name, None)
        if not isinstance(kept, nn.Module) and (kept is not None or value is not None):
            raise TypeError(f"{cls.__name__} must keep its argument {name!r} as the attribute self.{name}")
        return True


class Component(nn.Module, metaclass=ComponentMeta):
    """A module that a config can build: its constructor's arguments are the config.

    Attributes:
        arguments: the checked arguments, without those that are components (these are attributes).
        provides: names of shapes that this component tells the parts built after it.
    """

    kind: ClassVar[str] = "component"
    provides: ClassVar[tuple[str, ...]] = ()
    arguments: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def shapes_for(cls, part: str, shapes: Mapping[str, Any], arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The shapes that a part is built with; all that are known, unless a class says otherwise.

        What is changed here the parts after it do not hear of: they are told what this one was not.

        Args:
            part: its name among the constructor's arguments.
            shapes: what ``build`` was given, and what the parts before it provide.
            arguments: the constructor's arguments that are no parts.
        """
        return shapes

    def after_step(self) -> None:
        """What is learned from a whole step's batch, such as a codebook's running means.

        The training loop calls it once after each step that changes weights, in every process alike and with equal
        seeds: what ``forward`` has gathered from this process's micro-batches is added up over the processes here.
        """

    def blocks(self) -> Iterable[nn.Module]:
        """Repeated parts, such as the layers of a transformer; none, unless a class says otherwise.

        Large models are sharded and recomputed one block at a time. So each is called as a module, takes and returns
        tensors, and nothing outside of it uses its parameters in training.
        """
        return ()


class Posterior(Component):
    """From an encoder's features to q(z|x): the last layer's distribution, whatever the body."""

    kind: ClassVar[str] = "posterior"

    @abc.abstractmethod
    def channels(self, latents: int) -> int:
        """How many numbers per latent position the body must produce."""

    @abc.abstractmethod
    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        """h (*batch, channels(L), *positions) → a distribution over (L, *positions)."""


class Likelihood(Component):
    """From a decoder's features to p(x|z): the last layer's distribution, whatever the body."""

    kind: ClassVar[str] = "likelihood"

    @abc.abstractmethod
    def channels(self, data: int) -> int:
        """How many numbers per pixel the body must produce, for ``data`` channels."""

    @abc.abstractmethod
    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        """h (*batch, channels(C), *pixels) → a distribution over (C, *pixels), values in [0, 1]."""


class Encoder(Component):
    """q(z|x). Attributes ``data_shape`` and ``latent_shape``, both without the batch."""

    kind: ClassVar[str] = "encoder"
    provides: ClassVar[tuple[str, ...]] = ("data_shape", "latent_shape")
    data_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Distribution:
        """x (B, *data_shape) → q(z|x) with batch shape (B,) and event shape ``latent_shape``."""


class Decoder(Component):
    """p(x|z). Attributes ``data_shape`` and ``latent_shape``, both without the batch."""

    kind: ClassVar[str] = "decoder"
    provides: ClassVar[tuple[str, ...]] = ("data_shape", "latent_shape")
    data_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """z (*, *latent_shape), with any leading dimensions → p(x|z) with batch shape (*,)."""


class Quantized(NamedTuple):
    """What a quantizer makes of real latents z.

    Attributes:
        z_q: the vectors of the codes, (B, *latent_shape); z has a gradient through them, by an estimate.
        codes: int64, (B, *codes_shape).
        loss: what training adds to the distortion, (B,): summed over each example, never meaned.
        perplexity: exp of the entropy, in nats, of the codes in this batch, ().
    """

    z_q: Tensor
    codes: Tensor
    loss: Tensor
    perplexity: Tensor


class Quantizer(Component):
    """Real latents to codes from 0 to ``codebook_size`` - 1, and back.

    Only training changes anything: ``forward`` may start a codebook from the first latents that it sees, and
    ``after_step`` learns from what ``forward`` has gathered.

    Each position of latents (D, h, w) has a vector, which is given one code; latents (D,) are one position.
    What is a density of such codes has the same ``codebook_size``.

    Attributes:
        latent_shape: of the real latents, (D, *positions).
        codes_shape: of the codes, (*positions); with several codebooks, each at all positions, (levels, *positions).
    """

    kind: ClassVar[str] = "quantizer"
    provides: ClassVar[tuple[str, ...]] = ("latent_shape", "codes_shape", "codebook_size")
    latent_shape: tuple[int, ...]
    codes_shape: tuple[int, ...]
    codebook_size: int

    @abc.abstractmethod
    def encode(self, z: Tensor) -> Tensor:
        """z (B, *latent_shape) → codes, int64 (B, *codes_shape)."""

    @abc.abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """codes (*, *codes_shape), with any leading dimensions → their vectors (*, *latent_shape)."""

    @abc.abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """z (B, *latent_shape) → its codes, their vectors, and what training needs of them."""

    def counts(self, codes: Tensor) -> Tensor:
        """How often each code of each codebook is among codes (*, *codes_shape): int64, (1, codebook_size)."""
        k = codes.flatten()
        return k.new_zeros(self.codebook_size).index_add_(0, k, torch.ones_like(k)).unsqueeze(0)


class GenerativeModel(Component):
    """p(x).

    Attributes:
        data_shape: one datum, without the batch.
        preprocessing: what turned stored images into the data it was trained on; saved with it.
        provenance: how it was trained, and from where it was loaded; saved with it.
    """

    kind: ClassVar[str] = "model"
    provides: ClassVar[tuple[str, ...]] = ("data_shape",)
    data_shape: tuple[int, ...]
    preprocessing: Preprocessing = Preprocessing()
    provenance: Mapping[str, Any] = {}

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        """n draws (n, *data_shape); images lie in [0, 1].

        Args:
            generator: equal generators give equal samples, whatever the state of the global one.
            options: the model's own, see its ``draw``.
        """
        with drawing_from(generator):
            return self.draw(n, **options)

    @abc.abstractmethod
    def draw(self, n: int) -> Tensor:
        """What ``sample`` returns, from torch's global generator."""

    def simulate(self, n: int) -> Tensor:
        """n draws x ~ p(x) as ``log_prob`` knows it: those of ``draw``, unless these are made for the eye."""
        return self.draw(n)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,), exact or a lower bound as the model's spec says.

        Raises:
            NotImplementedError: the model has no density.
        """
        raise NotImplementedError(f"{type(self).__name__} has no density")

    def forward(self, condition: Any = None) -> Distribution:
        """p(x) as a distribution with batch shape () and event shape ``data_shape``."""
        return ModelDistribution(self)

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether it takes data of that shape, without the batch; a model of codes may take images as well."""
        return tuple(shape) == tuple(self.data_shape)

    def before_training(self, data: Dataset) -> None:
        """Takes from the data what is not learned step by step, such as a vocabulary; in every process alike."""

    def files(self) -> Mapping[str, bytes]:
        """What is saved beside the weights, by plain file names: whatever is no tensor, such as a vocabulary."""
        return {}

    def take_files(self, files: Mapping[str, bytes]) -> None:
        """Takes back what ``files`` gave.

        Raises:
            ZooError: they are damaged, or do not fit this model.
        """

    def given(self, batch: Batch) -> "GenerativeModel":
        """p(x|what else the batch tells), for a model with a condition; any other model is itself.

        Losses and metrics are handed this one: none of them hears of a condition.
        """
        return self


def device_of(model: nn.Module) -> torch.device:
    """Where a model's tensors lie; one that is not trained by gradient may have buffers only, or none."""
    tensors = chain(model.parameters(), model.buffers())
    return next((t.device for t in tensors), torch.device("cpu"))


class ModelDistribution(Distribution):
    """What a model draws and how likely it finds it, as a distribution: batch shape (), event ``data_shape``."""

    arg_constraints = {}

    def __init__(self, model: GenerativeModel) -> None:
        self.model = model
        super().__init__(torch.Size(), torch.Size(model.data_shape), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.model.simulate(math.prod(sample_shape)).reshape(*sample_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, (*,), for a value (*, *data_shape). Raises ConfigError if the model has no density."""
        leading = value.shape[: value.dim() - len(self.event_shape)]
        try:
            return self.model.log_prob(value.reshape(-1, *self.event_shape)).reshape(leading)
        except NotImplementedError as error:
            raise ConfigError(f"log p is asked for, but {error}") from None


class Prior(GenerativeModel):
    """p(z), or p(z|condition): a generative model whose data are latents."""

    kind: ClassVar[str] = "prior"
    provides: ClassVar[tuple[str, ...]] = ("latent_shape",)
    latent_shape: tuple[int, ...]

    @property
    def data_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.latent_shape

    @abc.abstractmethod
    def forward(self, condition: Any = None) -> Distribution:
        """→ p(z) with batch shape () and event shape ``latent_shape``; (B,) under a condition."""

    def draw(self, n: int) -> Tensor:
        """n draws z ~ p(z), (n, *latent_shape)."""
        z: Tensor = self().sample(torch.Size((n,)))
        return z

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(z) in nats, (B,), for latents (B, *latent_shape)."""
        log_p: Tensor = self().log_prob(x)
        return log_p


class LatentVariableModel(GenerativeModel):
    """p(x) = ∫ p(x|z) p(z) dz with an approximate posterior q(z|x).

    Args:
        prior: any generative model over latents, such as a mixture that was fitted to the codes.

    Raises:
        ConfigError: the parts disagree about the shape of a latent or of a datum.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, prior: Prior | GenerativeModel) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.data_shape = decoder.data_shape
        self.latent_shape = decoder.latent_shape
        agree("latent_shape", encoder=encoder.latent_shape, decoder=decoder.latent_shape, prior=prior.data_shape)
        agree("data_shape", encoder=encoder.data_shape, decoder=decoder.data_shape)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(z|x), (B, *latent_shape)."""
        mean: Tensor = self.encoder(x).mean
        return mean

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x|z), (*, *data_shape), in [0, 1] for images."""
        mean: Tensor = self.decoder(z).mean
        return mean.clamp(0, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z) at the mean of q(z|x), (B, *data_shape)."""
        return self.decode(self.encode(x))

    def draw(self, n: int, *, noise: bool = False) -> Tensor:
        """z ~ p(z), then the mean of p(x|z), as pictures are shown; with ``noise`` x ~ p(x|z) itself."""
        z = self.prior().sample((n,))
        return self.decoder(z).sample() if noise else self.decode(z)

    def simulate(self, n: int) -> Tensor:
        """x ~ p(x|z) itself, not its mean."""
        return self.draw(n, noise=True)

    def log_prob(self, x: Tensor, *, samples: int = 1, chunk: int = 64) -> Tensor:
        """log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x) for z_k ~ q(z|x), (B,): a lower bound on log p(x).

        Importance-weighted autoencoders (Burda et al., 2016) https://arxiv.org/abs/1509.00519

        Args:
            samples: K; 1 is the ELBO, and the bound rises with K.
            chunk: how many of the K are decoded at a time.

        Raises:
            ConfigError: q(z|x) is a Dirac, which has no density, or there are no samples.
        """
        if min(samples, chunk) < 1:
            raise ConfigError(f"samples and chunk: must be positive integers, got {samples} and {chunk}")
        q = self.encoder(x)
        counts = [min(chunk, samples - k) for k in range(0, samples, chunk)]
        return torch.logsumexp(
            torch.stack([torch.logsumexp(self.log_weights(x, q, k), 0) for k in counts]), 0
        ) - math.log(samples)

    def log_weights(self, x: Tensor, q: Distribution, k: int) -> Tensor:
        """log p(x|z) + log p(z) - log q(z|x) for k draws z ~ q(z|x), (k, B)."""
        p_z = self.prior()
        require_density(q, "log p(x, z) / q(z|x)")
        require_same_measure(q, p_z)
        z = q.rsample((k,))
        log_p_xz: Tensor = self.decoder(z).log_prob(x) + p_z.log_prob(z)
        return log_p_xz - q.log_prob(z)


class StatisticalModel(GenerativeModel):
    """A model that is fitted by sums over the data, such as those of EM, instead of by gradients.

    An iteration adds up ``statistics`` over all batches and all processes, and gives the sums to ``update``:
    the fit is the same whatever the batches and however many the processes.
    """

    @abc.abstractmethod
    def begin(self, x: Tensor) -> None:
        """Where the fit starts, from some examples x (N, *data_shape); draws from torch's global generator."""

    @abc.abstractmethod
    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """Sums over a batch x (B, *data_shape), in float64; ``n`` and ``objective`` are among them.

        The objective is what an iteration never makes worse, at the parameters before the update: the log
        density in nats, or minus the squared error, summed over examples.
        """

    @abc.abstractmethod
    def update(self, statistics: Mapping[str, Tensor]) -> None:
        """One iteration's new parameters, from the sums over all data."""


def agree(name: str, **shapes: tuple[int, ...]) -> None:
    """Refuses parts that do not have the same shape of that name.

    Raises:
        ConfigError: naming each part and its shape.
    """
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        told = ", ".join(f"{part} {tuple(shape)}" for part, shape in shapes.items())
        raise ConfigError(f"the parts differ in {name}: {told}")


class LossOutput(NamedTuple):
    """A loss, scalar: nats per example, meaned over the batch; and the terms to log, detached."""

    total: Tensor
    terms: dict[str, Tensor]


class Loss(Component):
    """A training objective: a function of a model and a batch.

    Attributes:
        step: the training step, set by the training loop, for schedules; None means they have ended.
    """

    kind: ClassVar[str] = "loss"
    step: int | None = None

    @abc.abstractmethod
    def forward(self, model: Any, batch: Batch) -> LossOutput:
        """Raises ConfigError if the model lacks what the loss needs."""


class AdversarialLoss(Loss):
    """A loss with an opponent, whose parameters take a step of their own after each of the model's.

    Attributes:
        adversary: the opponent. No step of the model moves it, and its own steps move nothing else.
        adversary_lr, adversary_betas: of its Adam; the rate follows the recipe's schedule.
    """

    adversary: nn.Module
    adversary_lr: float
    adversary_betas: tuple[float, float] = (0.9, 0.999)

    @abc.abstractmethod
    def oppose(self, model: Any, batch: Batch) -> LossOutput:
        """What the adversary makes small, on the same batch, after the step of the model."""
