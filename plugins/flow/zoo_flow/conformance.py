"""How the conformance kit tries what this plugin offers."""

_REAL = "a density of real numbers, such as latents: nothing keeps its draws in [0, 1]"
EXPECTED_FAILURES = {"realnvp::range_of_samples": _REAL, "maf::range_of_samples": _REAL}
