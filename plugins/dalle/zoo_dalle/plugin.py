"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, LossSpec, MetricSpec, ModelSpec, hookimpl, published


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="dalle",
        target="zoo_dalle.dalle:DALLE",
        summary="A transformer over captions in byte pairs and the codes of images.",
        density="bound",
        sampling="sequential",
        latent="compressed",
        task="text-to-image",
        example="images = model.generate(text, n=8)  # (8, {shape}), values in [0, 1]",
    )
    yield ModelSpec(
        name="autoregressive",
        target="zoo_dalle.autoregressive:Autoregressive",
        summary="A transformer over codes, given a label or not: a prior for models with a quantizer.",
        density="exact",
        sampling="sequential",
        latent="none",
    )
    yield ModelSpec(
        name="scorer",
        target="zoo_dalle.scorer:Scorer",
        summary="How well pictures and captions go together, to choose among samples.",
        density="none",
        sampling="none",
        latent="none",
        task="zero-shot-image-classification",
        example="scores = model.score(images, captions)  # (B,), of images (B, {shape}) and B captions",
    )


@hookimpl
def zoo_losses() -> Iterator[LossSpec]:
    yield LossSpec(
        name="text_image",
        target="zoo_dalle.text_image:TextImage",
        summary="Nats per token of captions, and of images given them.",
    )
    yield LossSpec(
        name="contrastive",
        target="zoo_dalle.contrastive:Contrastive",
        summary="Cross-entropy of each image among all captions of its batch, and of each caption among all images.",
    )


@hookimpl
def zoo_metrics() -> Iterator[MetricSpec]:
    yield MetricSpec(
        name="retrieval",
        target="zoo_dalle.retrieval:Retrieval",
        summary="How often the caption most similar to an image is its own, among those of a batch.",
        better="higher",
        unit="1",
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    pins = published("zoo_dalle:checkpoints")
    yield CheckpointSpec(
        name="dalle-shapes",
        target="zoo_dalle:checkpoints",
        hub="latent-zoo/dalle-shapes",
        summary="Sentences to pictures of coloured shapes, 32x32.",
        **pins["dalle-shapes"],
    )
    yield CheckpointSpec(
        name="dalle-emoji",
        target="zoo_dalle:checkpoints",
        hub="latent-zoo/dalle-emoji",
        summary="Names to colour emoji, 32x32.",
        **pins["dalle-emoji"],
    )
    yield CheckpointSpec(
        name="scorer-shapes",
        target="zoo_dalle:checkpoints",
        hub="latent-zoo/scorer-shapes",
        summary="How well 32x32 pictures of coloured shapes and sentences go together.",
        **pins["scorer-shapes"],
    )
    yield CheckpointSpec(
        name="scorer-emoji",
        target="zoo_dalle:checkpoints",
        hub="latent-zoo/scorer-emoji",
        summary="How well 32x32 pictures and names of emoji go together.",
        **pins["scorer-emoji"],
    )
