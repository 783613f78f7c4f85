"""How the conformance kit tries what this plugin offers."""

_DISCRETE = {
    "type": "vae/vae",
    "encoder": {
        "type": "nets/mlp_encoder",
        "latents": 3,
        "hidden": [4],
        "posterior": {"type": "nets/one_hot", "classes": 3},
    },
    "decoder": {"type": "reference/linear_decoder"},
    "prior": {"type": "nets/uniform_one_hot", "classes": 3},
}
EXAMPLES = {"vamp_vae": {"pseudo_inputs": 4}, "factor": {"hidden": [8]}}
MODELS = {"straight_through": _DISCRETE, "gumbel_softmax": _DISCRETE}
EXPECTED_FAILURES = {
    "dip_i::mean_over_the_batch": "it asks how the means of q(z|x) vary over the batch",
    "dip_ii::mean_over_the_batch": "it asks how latents vary over the batch",
    "info::mean_over_the_batch": "it compares the latents of the whole batch with draws of p(z)",
}
