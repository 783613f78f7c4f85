"""The loss of a vector-quantised autoencoder."""

from typing import Any

from zoo_core import Batch, ConfigError, Loss, LossOutput, Quantized, Quantizer


class VQ(Loss):
    """-log p(x|z_q), and the loss of the quantizer, such as beta || z - sg(e) ||^2; per-example sums.

    Neural discrete representation learning (van den Oord et al., 2017), equation 3 https://arxiv.org/abs/1711.00937

    Terms: ``distortion`` -log p(x|z_q) in nats; ``quantization``, the quantizer's own loss; ``perplexity`` of the codes
    in a micro-batch. What n codes cost beside, n log K nats under a uniform prior, is a constant.

    Raises:
        ConfigError: the model has no quantizer, or its prior waits for a gradient.
    """

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        require_quantizer("loss 'vq'", model)
        require_no_training(model.prior, "loss 'vq'")
        x = batch["image"]
        quantized: Quantized = model.quantizer(model.encoder(x).mean)
        distortion = -model.decoder(quantized.z_q).log_prob(x)
        terms = {"distortion": distortion.mean(), "quantization": quantized.loss.mean()}
        terms = {**terms, "perplexity": quantized.perplexity}
        return LossOutput((distortion + quantized.loss).mean(), {name: v.detach() for name, v in terms.items()})


def require_quantizer(asking: str, model: Any) -> None:
    """Refuses a model without codes.

    Raises:
        ConfigError: naming who asks, and the model.
    """
    if not isinstance(getattr(model, "quantizer", None), Quantizer):
        raise ConfigError(f"{asking} needs a model with a quantizer, as vqvae/vqvae; {type(model).__name__} has none")


def require_no_training(prior: Any, asking: str) -> None:
    """Refuses a prior that would silently stay untrained.

    Raises:
        ConfigError: with what to do about it.
    """
    if any(parameter.requires_grad for parameter in prior.parameters()):
        raise ConfigError(
            f"the prior {type(prior).__name__} has parameters, which {asking} does not train: train with"
            " vqvae/uniform_codes and fit the prior afterwards, or freeze it with requires_grad_(False)"
        )
