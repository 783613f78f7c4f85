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
    yield MetricSpec(
        name="bits_per_dim",
        target="zoo_metrics.bits_per_dim:BitsPerDim",
        summary="-log2 P(x) for each value of discrete data, or of a density of dequantised ones.",
        better="lower",
        unit="bits",
    )
    yield MetricSpec(
        name="mse",
        target="zoo_metrics.reconstruction:MSE",
        summary="Mean squared error of reconstructions, per value, where white is 1.",
        better="lower",
        unit="1",
    )
    yield MetricSpec(
        name="psnr",
        target="zoo_metrics.reconstruction:PSNR",
        summary="Peak signal-to-noise ratio of reconstructions, per image and pooled.",
        better="higher",
        unit="dB",
    )
    yield MetricSpec(
        name="nearest_image",
        target="zoo_metrics.nearest_image:NearestImage",
        summary="How often the image nearest to what is drawn for a caption is that caption's own.",
        better="higher",
        unit="1",
    )
    yield MetricSpec(
        name="shape_attributes",
        target="zoo_metrics.shape_attributes:ShapeAttributes",
        summary="How often a picture of coloured shapes shows what its caption says: all of it, and each attribute.",
        better="higher",
        unit="1",
    )
