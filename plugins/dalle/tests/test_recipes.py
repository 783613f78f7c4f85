"""The recipes: the paper's size on no memory at all."""

import torch

from zoo_core import build, read_recipe


def test_the_full_size_is_the_paper_s() -> None:
    """12 billion parameters in the transformer, over 256 text tokens and 32 x 32 codes of 8,192."""
    config = read_recipe("dalle-12b").model
    with torch.device("meta"):
        model = build(config, "model")
        tokens, codes = torch.zeros(2, 256, dtype=torch.long), torch.zeros(2, 1024, dtype=torch.long)
        log_p = model.stream_log_probs(tokens, codes)
    blocks = sum(p.numel() for p in model.stream.transformer.parameters())
    # Of each layer 12 dim^2 in its matrices, 13 dim in norms and biases less the attention's, and a norm at the end.
    assert blocks == 64 * (12 * 3968**2 + 9 * 3968) + 2 * 3968
    assert round(sum(p.numel() for p in model.stream.parameters()) / 1e9) == 12
    assert (log_p.text.shape, log_p.image.shape) == ((2, 256), (2, 1024))
    assert model.data_shape == (3, 256, 256)
    assert model.codes_shape == (32, 32)
