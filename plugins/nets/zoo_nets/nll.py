"""The negative log-likelihood."""

from typing import Any

from zoo_core import Batch, ConfigError, Loss, LossOutput, Quantizer


class NLL(Loss):
    """-log p(x), for any model with a density; where its ``log_prob`` is a lower bound, this is an upper one.

    Raises:
        ConfigError: the model has no density, or an encoder that this would leave as it is.
    """

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        require_no_codes(model)
        try:
            log_p = model.log_prob(batch["image"])
        except NotImplementedError as error:
            raise ConfigError(f"loss 'nll' needs a model with a density: {error}") from None
        return LossOutput(-log_p.mean(), {})


def require_no_codes(model: Any) -> None:
    """Refuses an encoder whose latents are quantized: log p(x) at the codes has no gradient in what was before them.

    Raises:
        ConfigError: with what to do about it.
    """
    if not isinstance(getattr(model, "quantizer", None), Quantizer) or not hasattr(model, "encoder"):
        return
    if any(parameter.requires_grad for parameter in model.encoder.parameters()):
        raise ConfigError(
            f"loss 'nll' would train the decoder of {type(model).__name__} alone, for no gradient passes its codes: "
            "take a loss that knows of the quantizer, as vqvae/vq, or freeze the encoder with requires_grad_(False)"
        )
