"""How the conformance kit tries what this plugin offers."""

# The kit adds up densities of two numbers, which have room for one latent.
EXAMPLES = {"ppca": {"latents": 1}, "ppca_em": {"latents": 1}}
