"""Faulty quantizers."""

import torch
from torch import Tensor, nn

from tests.faulty.faults import faulty, sound
from zoo_core import Quantized, Quantizer, QuantizerSpec, Shape

QUANTIZER = QuantizerSpec(name="x", target="x:X", summary="x", accepts=("vector[real]", "grid[real]"))


@sound(QUANTIZER)
class Learned(Quantizer):
    """The nearest of seven learned vectors, whose running means are kept."""

    codebook_size = 7
    use: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape, self.codes_shape = tuple(latent_shape), tuple(latent_shape[1:])
        self.codebook = nn.Parameter(torch.randn(self.codebook_size, latent_shape[0]))
        self.register_buffer("use", torch.zeros(self.codebook_size))

    def encode(self, z: Tensor) -> Tensor:
        rows = z.movedim(1, -1).unsqueeze(-2)
        return (rows - self.codebook).square().sum(-1).argmin(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.codebook[codes].movedim(-1, codes.dim() - len(self.codes_shape))

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        if self.training:
            self.count(codes)
        e = self.lookup(codes)
        return Quantized(self.passed(z, e), codes, self.loss(z, e), self.evenness(codes))

    def count(self, codes: Tensor) -> None:
        self.use.lerp_(self.counts(codes)[0].to(self.use), 0.1)

    def passed(self, z: Tensor, e: Tensor) -> Tensor:
        return z + (e - z).detach()

    def loss(self, z: Tensor, e: Tensor) -> Tensor:
        return (z - e).square().flatten(1).sum(1)

    def evenness(self, codes: Tensor) -> Tensor:
        share = self.counts(codes).double() / max(1, codes.numel())
        return torch.special.entr(share).sum().exp()


@faulty(QUANTIZER, "lookup")
class OffByOne(Learned):
    """Codes stand for the vectors after theirs."""

    def lookup(self, codes: Tensor) -> Tensor:
        return super().lookup((codes + 1) % self.codebook_size)

    def forward(self, z: Tensor) -> Quantized:
        made = super().forward(z)
        e = Learned.lookup(self, made.codes)
        return made._replace(z_q=self.passed(z, e), loss=self.loss(z, e))


@faulty(QUANTIZER, "codes")
class FromOne(Learned):
    """Codes count from one."""

    def encode(self, z: Tensor) -> Tensor:
        return super().encode(z) + 1

    def lookup(self, codes: Tensor) -> Tensor:
        return super().lookup(codes - 1)

    def counts(self, codes: Tensor) -> Tensor:
        return super().counts(codes - 1)


@faulty(QUANTIZER, "codes")
class ShortCodes(Learned):
    """Codes are int32."""

    def encode(self, z: Tensor) -> Tensor:
        return super().encode(z).int()

    def counts(self, codes: Tensor) -> Tensor:
        return super().counts(codes.long())


@faulty(QUANTIZER, "codes")
class FlatCodes(Learned):
    """Codes of a grid are a row."""

    def encode(self, z: Tensor) -> Tensor:
        return super().encode(z).flatten(1)

    def lookup(self, codes: Tensor) -> Tensor:
        return super().lookup(codes.unflatten(-1, self.codes_shape))


@faulty(QUANTIZER, "loss_is_a_sum")
class MeanOfPositions(Learned):
    """The loss is a mean over positions and channels."""

    def loss(self, z: Tensor, e: Tensor) -> Tensor:
        return (z - e).square().flatten(1).mean(1)


@faulty(QUANTIZER, "loss_of_each")
class MeanOfTheBatch(Learned):
    """The loss is one for the whole batch."""

    def loss(self, z: Tensor, e: Tensor) -> Tensor:
        return (z - e).square().flatten(1).sum(1).mean().expand(len(z))


@faulty(QUANTIZER, "rows")
class ScalarLoss(Learned):
    """The loss has no dimension."""

    def loss(self, z: Tensor, e: Tensor) -> Tensor:
        return (z - e).square().flatten(1).sum(1).mean()


@faulty(QUANTIZER, "batch_independence")
class Normalized(Learned):
    """Latents are first centred over the batch."""

    def encode(self, z: Tensor) -> Tensor:
        return super().encode(z - z.mean(0))


@faulty(QUANTIZER, "lookup")
class Transposed(Learned):
    """lookup exchanges height and width."""

    def lookup(self, codes: Tensor) -> Tensor:
        return super().lookup(codes.mT if len(self.codes_shape) == 2 else codes)

    def forward(self, z: Tensor) -> Quantized:
        made = super().forward(z)
        return made._replace(z_q=self.passed(z, Learned.lookup(self, made.codes)))


@faulty(QUANTIZER, "lookup")
class OneLeadingOnly(Learned):
    """lookup takes one leading dimension alone."""

    def lookup(self, codes: Tensor) -> Tensor:
        return self.codebook[codes].movedim(-1, 1)


@faulty(QUANTIZER, "evaluation_is_pure")
class LearnsInEvaluation(Learned):
    """Running means go on in evaluation mode."""

    def forward(self, z: Tensor) -> Quantized:
        made = super().forward(z)
        if not self.training:
            self.count(made.codes)
        return made


@faulty(QUANTIZER, "steps")
class StepsInEvaluation(Learned):
    """A step changes weights in evaluation mode."""

    def after_step(self) -> None:
        with torch.no_grad():
            self.codebook.mul_(0.9)


@faulty(QUANTIZER, "steps")
class LateSteps(Learned):
    """What was gathered in training is learned in evaluation mode."""

    gathered = False

    def count(self, codes: Tensor) -> None:
        self.gathered = True

    def after_step(self) -> None:
        if self.gathered:
            self.use.add_(1)
        self.gathered = False


@faulty(QUANTIZER, "steps")
class NewTensors(Learned):
    """A step puts a new tensor in the place of the old one."""

    def after_step(self) -> None:
        if self.training:
            self.use = self.use * 0.9


@faulty(QUANTIZER, "gradient_estimate")
class NoEstimate(Learned):
    """No gradient passes the codes."""

    def passed(self, z: Tensor, e: Tensor) -> Tensor:
        return e.detach()


@faulty(QUANTIZER, "perplexity")
class Bits(Learned):
    """The perplexity is 2 to the entropy in nats."""

    def evenness(self, codes: Tensor) -> Tensor:
        return super().evenness(codes).log().exp2()


@faulty(QUANTIZER, "perplexity")
class LostCounts(Learned):
    """Some codes are not counted."""

    def counts(self, codes: Tensor) -> Tensor:
        return super().counts(codes.flatten()[1:])


@faulty(QUANTIZER, "determinism")
class OwnDraws(Learned):
    """In training codes are disturbed by numbers that no seed of torch tells."""

    def forward(self, z: Tensor) -> Quantized:
        import numpy as np

        made = super().forward(z)
        return made._replace(z_q=made.z_q + float(np.random.rand())) if self.training else made


@faulty(QuantizerSpec(name="x", target="x:X", summary="x", accepts=("grid[real]", "sequence[real]")), "accepts")
class GridsOnly(Learned):
    """Its spec speaks of sequences, which it does not take."""

    def encode(self, z: Tensor) -> Tensor:
        return super().encode(z.reshape(len(z), *self.latent_shape[:1], *self.codes_shape[:1], self.codes_shape[1]))
