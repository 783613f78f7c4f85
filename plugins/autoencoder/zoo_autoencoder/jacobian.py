"""How an encoder's mean changes with its input."""

from torch import Tensor
from torch.func import jacrev

from zoo_core import Encoder


def jacobian(encoder: Encoder, x: Tensor) -> Tensor:
    """J_f(x)_ki = d f_k(x) / d x_i, f the mean of q(z|x), latents and data flattened: (B, L, D).

    Computed under ``no_grad`` too, and differentiable outside it. Takes the memory of L backward passes.
    """
    # An encoder sees each datum alone: the derivative of a sum over the batch is that of every one of them.
    J: Tensor = jacrev(lambda x: encoder(x).mean.flatten(1).sum(0))(x)
    return J.transpose(0, 1).flatten(2)
