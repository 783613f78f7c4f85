"""Frozen descriptions of components. A plugin yields them; nothing here imports torch.

A spec says what a component is called, where its class lives (as an import string, so that listing a
hundred components imports none of them) and what can be known about it without building it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

Layout = Literal["vector", "grid", "sequence"]
Support = Literal["real", "codes"]
Better = Literal["lower", "higher", "neither"]
Density = Literal["exact", "bound", "none"]
Sampling = Literal["parallel", "sequential", "none"]
LatentSize = Literal["compressed", "full", "none"]

NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
LATENTS = frozenset(f"{layout}[{s}]" for layout in get_args(Layout) for s in get_args(Support))


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every component says of itself.

    Attributes:
        name: unique within its plugin, in lower case: ``"beta_tc"``.
        target: import string of the class or function: ``"zoo_vae.beta_tc:BetaTC"``.
        summary: one line, for lists.

    Raises:
        ValueError: a field has the wrong form; the sentence names the field and the form.
    """

    kind: ClassVar[str]
    needs_target: ClassVar[bool] = True

    name: str
    target: str
    summary: str

    def __post_init__(self) -> None:
        require(
            isinstance(self.name, str) and NAME.fullmatch(self.name),
            f"name {self.name!r}: use lower-case letters and digits, joined by '_' or '-'",
        )
        require(
            isinstance(self.target, str) and (TARGET.fullmatch(self.target) or not (self.target or self.needs_target)),
            f"target {self.target!r} of {self.name!r}: use 'package.module:Name'",
        )
        require(
            isinstance(self.summary, str) and self.summary.strip() and [self.summary] == self.summary.splitlines(),
            f"summary of {self.name!r}: use one line",
        )


def require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_latents(spec: Spec, field: str) -> None:
    value = getattr(spec, field)
    require(
        isinstance(value, tuple) and value and LATENTS.issuperset(value),
        f"{field} of {spec.name!r}: use a tuple out of {', '.join(sorted(LATENTS))}; got {value!r}",
    )


def require_choice(spec: Spec, field: str, choices: object) -> None:
    value, known = getattr(spec, field), get_args(choices)
    require(value in known, f"{field} of {spec.name!r}: use one of {', '.join(map(repr, known))}; got {value!r}")


def require_form(spec: Spec, field: str, form: str, words: str) -> None:
    value = getattr(spec, field)
    require(isinstance(value, str) and re.fullmatch(form, value), f"{field} {value!r} of {spec.name!r}: use {words}")


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(Spec):
    """q(z|x). ``emits``: the latents it can produce, e.g. ``("vector[real]", "grid[real]")``."""

    kind: ClassVar[str] = "encoder"
    emits: tuple[str, ...] = ("vector[real]",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_latents(self, "emits")


@dataclass(frozen=True, kw_only=True)
class PosteriorSpec(Spec):
    """The distribution that an encoder's last layer parameterises; composed with any body."""

    kind: ClassVar[str] = "posterior"


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(Spec):
    """p(x|z). ``accepts``: the latents it can decode."""

    kind: ClassVar[str] = "decoder"
    accepts: tuple[str, ...] = ("vector[real]",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_latents(self, "accepts")


@dataclass(frozen=True, kw_only=True)
class LikelihoodSpec(Spec):
    """The distribution that a decoder's last layer parameterises; composed with any body."""

    kind: ClassVar[str] = "likelihood"


@dataclass(frozen=True, kw_only=True)
class PriorSpec(Spec):
    """p(z). ``accepts``: the latents it can be a density or a mass function of."""

    kind: ClassVar[str] = "prior"
    accepts: tuple[str, ...] = ("vector[real]",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_latents(self, "accepts")


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec(Spec):
    """Real latents to codes of the same layout. ``accepts``: the latents it can quantize."""

    kind: ClassVar[str] = "quantizer"
    accepts: tuple[str, ...] = ("vector[real]", "grid[real]", "sequence[real]")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_latents(self, "accepts")


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """A training objective. ``bound``: whether -loss is a lower bound on log p(x), in nats."""

    kind: ClassVar[str] = "loss"
    bound: bool = False


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """A measurement.

    Attributes:
        better: which direction is.
        unit: what the value counts.
        examples: how many it takes until the value says something; ``evaluate`` warns of fewer.
    """

    kind: ClassVar[str] = "metric"
    better: Better
    unit: str
    examples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "better", Better)
        require(
            type(self.examples) is int and self.examples > 0,
            f"examples of {self.name!r}: use a positive integer; got {self.examples!r}",
        )


@dataclass(frozen=True, kw_only=True)
class ExtractorSpec(Spec):
    """Features of images. ``data_shape``: (C, H, W) of those that it was made for; None for any."""

    kind: ClassVar[str] = "extractor"
    data_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = self.data_shape
        require(
            shape is None or (isinstance(shape, tuple) and shape and all(type(n) is int and n > 0 for n in shape)),
            f"data_shape of {self.name!r}: use a tuple of positive integers or None; got {shape!r}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Spec):
    """A generative model and what it promises.

    Attributes:
        density: what ``log_prob`` returns: the exact value, a lower bound, or nothing.
        sampling: all dimensions at once, or one after another; ``none`` draws nothing, such as a scorer.
        latent: smaller than the data, of the same size, or absent.
        task: what the Hub calls what it does, such as ``text-to-image``.
        example: a line of Python for its cards, of a ``model`` whose data have ``{shape}``.
    """

    kind: ClassVar[str] = "model"
    density: Density
    sampling: Sampling
    latent: LatentSize
    task: str = "unconditional-image-generation"
    example: str = "images = model.sample(16)  # (16, {shape}), values in [0, 1]"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "density", Density)
        require_choice(self, "sampling", Sampling)
        require_choice(self, "latent", LatentSize)
        require_form(self, "task", r"[a-z]+(-[a-z]+)*", "words joined by '-'")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A data set; ``target`` is called with the split's name and keyword options."""

    kind: ClassVar[str] = "dataset"
    splits: tuple[str, ...] = ("train", "test")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            isinstance(self.splits, tuple) and self.splits and all(s and isinstance(s, str) for s in self.splits),
            f"splits of {self.name!r}: use a tuple of names; got {self.splits!r}",
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointSpec(Spec):
    """Published weights of a model.

    Attributes:
        target: where the copy inside the wheel lies, ``"zoo_vae:checkpoints"``: package and the folder
            that holds a folder called ``name``. A checkpoint too large for a wheel leaves it empty.
        hub: its repository on the Hugging Face Hub, ``"latent-zoo/vae-mnist"``.
        revision: the commit that is downloaded, 40 hex digits; empty while there is none.
        sha256: of ``model.safetensors``, checked after a download when it is given.
    """

    kind: ClassVar[str] = "checkpoint"
    needs_target: ClassVar[bool] = False
    target: str = ""
    hub: str
    revision: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_form(self, "hub", r"[\w.-]+/[\w.-]+", "'organisation/name'")
        require_form(self, "revision", r"([0-9a-f]{40})?", "a full commit, 40 hex digits")
        require_form(self, "sha256", r"([0-9a-f]{64})?", "64 hex digits")


ROLES = ("encoder", "quantizer", "decoder", "prior")


def latent_mismatch(parts: Mapping[str, Spec]) -> str | None:
    """Why these parts cannot make a model, from their specs alone; None when they can.

    Args:
        parts: specs by role, any of ``encoder``, ``quantizer``, ``decoder`` and ``prior``.

    Latents pass from role to role and each narrows what they may be; behind a quantizer the decoder still
    sees real vectors (the codebook's), the prior sees codes. The sentence names the part that cannot be
    served and one that stands against it, or all before it where only together they leave nothing.
    """
    left = LATENTS
    before: list[tuple[frozenset[str], str]] = []
    for role in filter(parts.__contains__, ROLES):
        spec = parts[role]
        if role == "prior" and "quantizer" in parts:
            left = _coded(left)
            before = [(_coded(latents), told) for latents, told in before]
            before.insert(0, (_coded(LATENTS), f"quantizer {parts['quantizer'].name!r} emits codes"))
        verb = "emits" if isinstance(spec, EncoderSpec) else "accepts"
        own = frozenset(getattr(spec, verb))
        sentence = f"{spec.kind} {spec.name!r} {verb} {' or '.join(sorted(own))}"
        if not left & own:
            against = [told for latents, told in before if not latents & own][:1] or [told for _, told in before]
            return f"{' and '.join(against)}, but {sentence}"
        left &= own
        before.append((own, sentence))
    return None


def _coded(latents: frozenset[str]) -> frozenset[str]:
    return frozenset(latent.replace("[real]", "[codes]") for latent in latents)
