"""Each kind of component as a function from rows of tensors to named rows of tensors."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_core.distributions import CodeGrid, Dirac
from zoo_core.testing.subjects import CODES, Subject, batch_of, drawing

# Kinds of which row i of what comes out depends on row i of what goes in, and on nothing else.
ROWS = ("encoder", "posterior", "decoder", "likelihood", "prior", "quantizer")
# Of these, the ones through which a gradient reaches what goes in.
SMOOTH = ("encoder", "posterior", "decoder", "likelihood", "quantizer")
EVENT = (3, 4, 4)  # of the features that posteriors and likelihoods are given, with its channels


def inputs(subject: Subject, component: Any, n: int) -> tuple[Tensor, ...]:
    """n rows of what a component takes, in the dtype of its weights; what a distribution is asked about comes last."""
    with drawing(n), torch.no_grad():
        return _INPUTS[subject.spec.kind](subject, component, n)


def outputs(subject: Subject, component: Any, *given: Tensor) -> dict[str, Tensor]:
    """What it makes of them: numbers for each row, by name; of a distribution its moments and log density."""
    return _OUTPUTS[subject.spec.kind](component, *given)


def trained_by(subject: Subject, component: Any, *given: Tensor) -> dict[str, Tensor]:
    """Of what it makes of them, what training asks for: moments are for the eye, and may take long to trace."""
    if subject.spec.kind not in _DISTRIBUTIONS:
        return outputs(subject, component, *given)
    p = distribution_of(subject, component, *given)
    return {"mean": p.mean} if isinstance(p, Dirac) else {"log_prob": p.log_prob(given[-1])}


def distribution_of(subject: Subject, component: Any, *given: Tensor) -> Distribution:
    """The distribution that an encoder, a posterior, a decoder, a likelihood or a prior gives."""
    return _DISTRIBUTIONS[subject.spec.kind](component, *given)


def trained(component: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that have a gradient."""
    return ((name, p) for name, p in component.named_parameters() if p.requires_grad)


def as_weights(rows: Tensor, component: nn.Module) -> Tensor:
    """In the dtype of its weights, or of its buffers."""
    tensors = chain(component.parameters(), component.buffers())
    return rows.to(next((t.dtype for t in tensors if t.is_floating_point()), rows.dtype))


def _of_encoder(encoder: Any, x: Tensor, *asked: Tensor) -> Distribution:
    made: Distribution = encoder(x)
    return made


def _of_features(layer: Any, h: Tensor, *asked: Tensor) -> Distribution:
    made: Distribution = layer(h, len(EVENT))
    return made


def _of_prior(prior: Any, *asked: Tensor) -> Distribution:
    made: Distribution = prior()
    return made


_DISTRIBUTIONS: Mapping[str, Callable[..., Distribution]] = {
    "encoder": _of_encoder,
    "decoder": _of_encoder,
    "posterior": _of_features,
    "likelihood": _of_features,
    "prior": _of_prior,
}


def _described(p: Distribution, value: Tensor) -> dict[str, Tensor]:
    """A distribution by what it says, whatever its parameters are called."""
    told = {"log_prob": p.log_prob(value)}
    if isinstance(p, Dirac):  # its log density knows only equal and different
        return {"mean": p.mean}
    if isinstance(p, CodeGrid):
        return told | {"logits": p.logits}
    for moment in ("mean", "variance"):
        try:
            told[moment] = getattr(p, moment)
        except NotImplementedError:
            continue
    return told


def _encoder_inputs(subject: Subject, encoder: Any, n: int) -> tuple[Tensor, ...]:
    x = as_weights(batch_of(subject.data_shape, n)["image"], encoder)
    return x, encoder(x).sample()


def _decoder_inputs(subject: Subject, decoder: Any, n: int) -> tuple[Tensor, ...]:
    coded = all(latent.endswith("[codes]") for latent in subject.spec.accepts)
    shape = (n, *decoder.latent_shape)
    z = torch.randint(CODES, shape) if coded else as_weights(torch.randn(shape), decoder)
    return z, decoder(z).sample()


def _features(subject: Subject, layer: Any, n: int) -> tuple[Tensor, ...]:
    h = as_weights(torch.randn(n, layer.channels(EVENT[0]), *EVENT[1:]), layer)
    return h, layer(h, len(EVENT)).sample()


def _quantizer_outputs(quantizer: Any, z: Tensor) -> dict[str, Tensor]:
    z_q, codes, loss, _ = quantizer(z)
    return {"z_q": z_q, "codes": codes, "loss": loss}


_INPUTS: Mapping[str, Callable[[Subject, Any, int], tuple[Tensor, ...]]] = {
    "encoder": _encoder_inputs,
    "decoder": _decoder_inputs,
    "posterior": _features,
    "likelihood": _features,
    "prior": lambda subject, prior, n: (prior().sample((n,)),),
    "quantizer": lambda subject, quantizer, n: (as_weights(torch.randn(n, *quantizer.latent_shape), quantizer),),
}


_OUTPUTS: Mapping[str, Callable[..., dict[str, Tensor]]] = {
    **{kind: lambda c, *x, made=made: _described(made(c, *x), x[-1]) for kind, made in _DISTRIBUTIONS.items()},
    "prior": lambda prior, z: {"log_prob": prior().log_prob(z)},
    "quantizer": _quantizer_outputs,
}
