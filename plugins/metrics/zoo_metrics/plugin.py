"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import MetricSpec, hookimpl


@hookimpl
def zoo_metrics() -> Iterator[MetricSpec]:
    yield MetricSpec(
        name="elbo",
        target="zoo_metrics.likelihood:ELBO",
        summary="Evidence lower bound with its two terms, distortion and rate.",
        better="higher",
        unit="nats",
    )
    yield MetricSpec(
        name="iwae",
        target="zoo_metrics.likelihood:IWAE",
        summary="Importance-weighted bound on log p(x) with K samples.",
        better="higher",
        unit="nats",
    )
    yield MetricSpec(
        name="log_prob",
        target="zoo_metrics.likelihood:LogProb",
        summary="log p(x) as the model gives it, exact or a bound.",
        better="higher",
        unit="nats",
    )
