"""The ELBO with the rate held at a capacity that grows."""

from zoo_core import Batch, LatentVariableModel, Loss, LossOutput, NonNegativeFloat, NonNegativeInt, kl


class Capacity(Loss):
    """-E_q[log p(x|z)] + gamma |KL(q(z|x) || p(z)) - C|, at one z ~ q(z|x), for each x; C rises from 0 by the step.

    Understanding disentangling in beta-VAE (Burgess et al., 2018) https://arxiv.org/abs/1804.03599

    Args:
        gamma: nats that each nat away from C costs.
        capacity: the last C, in nats.
        warmup: steps over which C rises linearly from 0.

    Terms: ``distortion`` and ``rate``, and ``capacity``, the C of this step, in nats.
    """

    def __init__(
        self, gamma: NonNegativeFloat = 1000.0, capacity: NonNegativeFloat = 25.0, warmup: NonNegativeInt = 100_000
    ) -> None:
        super().__init__()
        self.gamma, self.capacity, self.warmup = gamma, capacity, warmup

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample()
        distortion, rate, C = -model.decoder(z).log_prob(x), kl(q, p_z, z), self.reached()
        total = (distortion + self.gamma * (rate - C).abs()).mean()
        terms = {"distortion": distortion.mean().detach(), "rate": rate.mean().detach(), "capacity": rate.new_tensor(C)}
        return LossOutput(total, terms)

    def reached(self) -> float:
        """C at this step."""
        if self.step is None or not self.warmup:
            return self.capacity
        return self.capacity * min(1.0, self.step / self.warmup)
