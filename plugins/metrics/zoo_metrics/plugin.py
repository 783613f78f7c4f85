"""What this plugin offers; imports nothing heavy."""

from collections.abc import Iterator

from zoo_core import CheckpointSpec, ExtractorSpec, LossSpec, MetricSpec, ModelSpec, hookimpl, published


@hookimpl
def zoo_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="classifier",
        target="zoo_metrics.classification.classifier:Classifier",
        summary="Which class an image belongs to; its features are what sets of images are compared by.",
        density="none",
        sampling="none",
        latent="none",
        task="image-classification",
        example="logits = model.logits(images)  # (B, classes), of images (B, {shape}) in [0, 1]",
    )


@hookimpl
def zoo_losses() -> Iterator[LossSpec]:
    yield LossSpec(
        name="cross_entropy",
        target="zoo_metrics.classification.cross_entropy:CrossEntropy",
        summary="-log p(y|x) of the label y, with label smoothing and varied images.",
    )


@hookimpl
def zoo_extractors() -> Iterator[ExtractorSpec]:
    yield ExtractorSpec(
        name="mnist_classifier",
        target="zoo_metrics.extractors.classifier:MNISTClassifier",
        summary="A classifier of MNIST before its last layer, and its class probabilities.",
        data_shape=(1, 28, 28),
    )
    yield ExtractorSpec(
        name="cifar10_classifier",
        target="zoo_metrics.extractors.classifier:CIFAR10Classifier",
        summary="A classifier of CIFAR-10 before its last layer, and its class probabilities.",
        data_shape=(3, 32, 32),
    )
    yield ExtractorSpec(
        name="classifier_features",
        target="zoo_metrics.extractors.classifier:ClassifierFeatures",
        summary="Any checkpoint of a classifier before its last layer, and its class probabilities.",
    )
    yield ExtractorSpec(
        name="pixels",
        target="zoo_metrics.extractors.pixels:Pixels",
        summary="Images as they are.",
    )
    yield ExtractorSpec(
        name="inception",
        target="zoo_metrics.extractors.inception:InceptionFeatures",
        summary="The Inception network of FID and of the inception score, from a file of its weights.",
    )
    yield ExtractorSpec(
        name="clip",
        target="zoo_metrics.extractors.clip:CLIPFeatures",
        summary="A published CLIP model's features of images.",
    )
    yield ExtractorSpec(
        name="dinov2",
        target="zoo_metrics.extractors.dinov2:DINOv2Features",
        summary="A published DINOv2 model's features of images.",
    )


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
    yield MetricSpec(
        name="ais",
        target="zoo_metrics.ais:AIS",
        summary="Annealed importance sampling of log p(x), which needs no good q(z|x).",
        better="higher",
        unit="nats",
    )
    yield MetricSpec(
        name="active_units",
        target="zoo_metrics.active_units:ActiveUnits",
        summary="How many latents vary from example to example.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="ssim",
        target="zoo_metrics.ssim:SSIM",
        summary="Structural similarity of images and their reconstructions.",
        better="higher",
        unit="1",
    )
    yield MetricSpec(
        name="lpips",
        target="zoo_metrics.lpips:LPIPS",
        summary="Distance of images and their reconstructions in the features of a trained network.",
        better="lower",
        unit="1",
    )
    yield MetricSpec(
        name="fd",
        target="zoo_metrics.samples.frechet:FrechetDistance",
        summary="Fréchet distance between features of data and of samples, as Gaussians; FID with Inception's.",
        better="lower",
        unit="1",
        examples=2000,
    )
    yield MetricSpec(
        name="kid",
        target="zoo_metrics.samples.kernel_distance:KernelDistance",
        summary="Kernel distance between features of data and of samples: unbiased, with a standard error.",
        better="lower",
        unit="1",
        examples=500,
    )
    yield MetricSpec(
        name="inception_score",
        target="zoo_metrics.samples.inception_score:InceptionScore",
        summary="Whether a classifier is sure of each sample's class and finds many classes, with both entropies.",
        better="higher",
        unit="1",
        examples=5000,
    )
    yield MetricSpec(
        name="precision_recall",
        target="zoo_metrics.samples.precision_recall:PrecisionRecall",
        summary="The share of samples that lie among the data, and of the data that lie among samples.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="density_coverage",
        target="zoo_metrics.samples.density_coverage:DensityCoverage",
        summary="How densely samples lie among the data, and the share of the data that has samples nearby.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="continuity",
        target="zoo_metrics.geometry.continuity:Continuity",
        summary="Whether near examples have near codes, and trustworthiness, whether near codes have near examples.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="completeness",
        target="zoo_metrics.geometry.completeness:Completeness",
        summary="The share of decoded draws of p(z) among the data, and MMD of codes and p(z).",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="interpolation_smoothness",
        target="zoo_metrics.geometry.smoothness:InterpolationSmoothness",
        summary="How far pictures move along paths between draws of p(z), and how evenly.",
        better="lower",
        unit="1",
        examples=100,
    )
    yield MetricSpec(
        name="decoder_step",
        target="zoo_metrics.geometry.decoder_step:DecoderStep",
        summary="How far pictures move with a small step of their codes: percentiles over examples.",
        better="neither",
        unit="1",
        examples=100,
    )
    yield MetricSpec(
        name="mig",
        target="zoo_metrics.disentanglement.mig:MIG",
        summary="Mutual information gap: how much more the best code tells of a factor than the next.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="dci",
        target="zoo_metrics.disentanglement.dci:DCI",
        summary="Disentanglement, completeness and informativeness, by gradient boosted trees.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="sap",
        target="zoo_metrics.disentanglement.sap:SAP",
        summary="Separated attribute predictability: how much better the best code predicts a factor than the next.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="modularity",
        target="zoo_metrics.disentanglement.modularity:Modularity",
        summary="Whether each code tells of one factor alone.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="factor_vae_score",
        target="zoo_metrics.disentanglement.factor_vae:FactorVAEScore",
        summary="How often the code that varies least tells which factor was held.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="beta_vae_score",
        target="zoo_metrics.disentanglement.beta_vae:BetaVAEScore",
        summary="How often a linear classifier of differences of codes tells which factor was held.",
        better="higher",
        unit="1",
        examples=1000,
    )
    yield MetricSpec(
        name="clip_score",
        target="zoo_metrics.text.clip_score:CLIPScore",
        summary="How well what is drawn for a caption goes with it, by a published CLIP model.",
        better="higher",
        unit="1",
    )
    yield MetricSpec(
        name="caption_retrieval",
        target="zoo_metrics.text.retrieval:CaptionRetrieval",
        summary="How often what is drawn for a caption is most like that caption, by a scorer of pairs.",
        better="higher",
        unit="1",
    )
    yield MetricSpec(
        name="accuracy",
        target="zoo_metrics.classification.accuracy:Accuracy",
        summary="How often a classifier's most probable class is the label, and the label's -log p(y|x).",
        better="higher",
        unit="1",
    )


@hookimpl
def zoo_checkpoints() -> Iterator[CheckpointSpec]:
    pins = published("zoo_metrics:checkpoints")
    yield CheckpointSpec(
        name="classifier-mnist",
        target="zoo_metrics:checkpoints",
        hub="latent-zoo/classifier-mnist",
        summary="Classifier of MNIST, whose features compare sets of such images.",
        **pins["classifier-mnist"],
    )
    yield CheckpointSpec(
        name="classifier-cifar10",
        target="zoo_metrics:checkpoints",
        hub="latent-zoo/classifier-cifar10",
        summary="Classifier of CIFAR-10, whose features compare sets of such images.",
        **pins["classifier-cifar10"],
    )
