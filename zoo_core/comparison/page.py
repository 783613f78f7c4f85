"""What a page of a comparison shows, and in which order."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from zoo_core.comparison.comparing import Comparison, Entry, file_name
from zoo_core.comparison.table import NO_LIKELIHOOD, Table, likelihood_groups, of_samples, seen, table
from zoo_core.figures import SMALLEST, Panel, figure_png, labelled_panels
from zoo_core.host import default_host
from zoo_core.images import grid, to_picture
from zoo_core.specs import MetricSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR_APART = 20
QUALITY = ("fid", "fd")  # the value that likelihood is plotted against: the first that was measured


PIXELS = {
    "binarised pixels": "binarised, 1 with probability v / 255, else 0",
    "pixels binarised": "binarised, 1 for v ≥ 128, else 0",
    "dequantised pixels": "dequantised, (v + u) / 256 with u uniform in [0, 1)",
    "pixels without noise": "without noise, v / 255",
}
REMARK = (
    "Likelihoods are ranked inside a group alone: a density and a probability, or those of other data or given a"
    " condition, have other scales and say nothing against each other"
)


class Picture(NamedTuple):
    """A PNG, by the name of its file; ``title`` and ``caption`` stand below it."""

    file: str
    png: bytes
    width: int
    title: str
    caption: str = ""


class Page(NamedTuple):
    """What a page shows, in its order.

    Attributes:
        failed: models that could not be measured, or draw nothing, with the reason.
        remark: what the table does not compare.
        plots, samples, reconstructions: pictures.
        reading: what the columns mean, as terms and sentences.
        notes: sentences on single models.
        command: that makes the page again; empty where there is none.
    """

    title: str
    subtitle: str
    table: Table
    remark: str
    failed: tuple[tuple[str, str], ...]
    plots: tuple[Picture, ...]
    samples: tuple[Picture, ...]
    reconstructions: tuple[Picture, ...]
    reading: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    command: str

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return (*self.plots, *self.samples, *self.reconstructions)


def page(comparison: Comparison, *, command: str = "") -> Page:
    """What a page of a comparison shows."""
    asked, dataset = comparison.asked, comparison.dataset
    return Page(
        title=f"Generative models of {dataset.name}, compared",
        subtitle=f"Measured on {asked.examples:,} examples of the split “{dataset.split}”, seed {asked.seed}",
        table=table(comparison),
        remark=REMARK if any(entry.likelihood for entry in comparison.entries) else "",
        failed=tuple(_failures(comparison)),
        plots=tuple(_plots(comparison)),
        samples=tuple(_samples(comparison)),
        reconstructions=tuple(_reconstructions(comparison)),
        reading=tuple(_reading(comparison)),
        notes=tuple(_notes(comparison)),
        command=command,
    )


def _failures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for entry in comparison.entries:
        for what, reason in entry.stored["failed"].items():
            yield entry.name, f"{'could not be measured' if what == 'model' else f'{what} failed'}: {reason}"
        if entry.traits and entry.traits.sampling.kind == "none":
            yield entry.name, f"draws nothing: {entry.traits.sampling.reason}"


# --- pictures -----------------------------------------------------------------------------------------------


def _plots(comparison: Comparison) -> Iterator[Picture]:
    marks = {entry.name: i for i, entry in enumerate(comparison.entries)}
    measured = [name for entry in comparison.entries for name in entry.values]
    quality = next((n for q in QUALITY for n in measured if _stem(n) == q), "")
    panels = list(_likelihood_panels(comparison, quality, marks)) if quality else []
    if sum(len(panel.x) for panel in panels) > 1:
        title = f"Likelihood against quality. Better: right (likelihood), down ({_stem(quality)})"
        names, log = ("log p(x), nats", quality), _spreads(panels)
        yield _figure("likelihood-quality.png", labelled_panels(panels, names, title=title, log=log))
    precision, recall = (next((n for n in measured if _stem(n) == s), None) for s in ("precision", "recall"))
    if precision and recall:
        panel = _panel(
            "All models", comparison.entries, lambda e: _value(e, recall), lambda e: _value(e, precision), marks
        )
        if panel.x:
            title = "Better: right (recall), up (precision)"
            yield _figure("precision-recall.png", labelled_panels([panel], (recall, precision), title=title))


def _spreads(panels: Sequence[Panel]) -> bool:
    """Whether the values are too far apart for one even scale."""
    y = [value for panel in panels for value in panel.y]
    return min(y) > 0 and max(y) / min(y) > FAR_APART


def _stem(name: str) -> str:
    return name.partition(" (")[0]


def _likelihood_panels(comparison: Comparison, quality: str, marks: Mapping[str, int]) -> Iterator[Panel]:
    """One for each kind of data that likelihoods speak of, for they have no common axis."""
    for title, entries in likelihood_groups(comparison).items():
        if title == NO_LIKELIHOOD:
            continue
        panel = _panel(title, entries, lambda e: _value(e, e.likelihood), lambda e: _value(e, quality), marks)
        if panel.x:
            yield panel


def _value(entry: Entry, name: str) -> float | None:
    found: float | None = entry.values.get(name, {}).get("value")
    return found


def _panel(title: str, entries: Sequence[Entry], x: Any, y: Any, marks: Mapping[str, int]) -> Panel:
    """The models of which both values are known."""
    known = [e for e in entries if x(e) is not None and y(e) is not None]
    names = [e.name for e in known]
    words = title.replace(", ", ",\n", 1) if len(title) > 40 else title
    return Panel(words, [x(e) for e in known], [y(e) for e in known], names, [marks[name] for name in names])


def _figure(file: str, figure: "Figure") -> Picture:
    return Picture(file, figure_png(figure), round(figure.bbox.width), "")


def _samples(comparison: Comparison) -> Iterator[Picture]:
    for entry in comparison.entries:
        if entry.samples is not None and entry.traits:
            yield _grid(f"samples-{file_name(entry.name)}.png", entry.samples, entry.name, _drawn_from(entry))


def _drawn_from(entry: Entry) -> str:
    """Where the latents of samples come from."""
    assert entry.traits
    prior = f", z from {entry.traits.prior}" if entry.traits.prior else ""
    fitted = ", fitted to its codes afterwards" if prior and entry.traits.afterwards else ""
    given = f", {' and '.join(entry.traits.given)}s as in the data" if entry.traits.given else ""
    return f"{entry.traits.family}{prior}{fitted}{given}"


def _reconstructions(comparison: Comparison) -> Iterator[Picture]:
    if comparison.originals is None:
        return
    yield _grid("originals.png", comparison.originals, "the data", "", columns=len(comparison.originals))
    for entry in comparison.entries:
        x = entry.reconstructions
        if x is not None:
            yield _grid(f"reconstructions-{file_name(entry.name)}.png", x, entry.name, "", columns=len(x))


def _grid(file: str, images: Tensor, title: str, caption: str, columns: int | None = None) -> Picture:
    enlarge = math.ceil(SMALLEST / max(images.shape[-2:]))
    pixels = grid(images, columns).repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    png = io.BytesIO()
    to_picture(pixels).save(png, format="PNG")
    return Picture(file, png.getvalue(), pixels.shape[-1], title, caption)


# --- words --------------------------------------------------------------------------------------------------


def _reading(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What the columns mean."""
    known = [entry.traits for entry in comparison.entries if entry.traits]
    yield (
        "p(x)",
        (
            "whether it is known exactly, from below, or not at all. Measured: a bound is what differs from draw"
            " to draw, or takes one code of many"
        ),
    )
    yield "draws", "parallel: an image takes one pass; sequential: so many passes, each of which needs the one before"
    if places := sorted({_place(t.sampling.device, t.sampling.threads) for t in known if t.sampling.seconds}):
        yield "ms/image", f"the median of repeated draws on {' or '.join(places)}"
    yield "latents", "what stands for an image of so many values: numbers, or codes and the bits that they take up"
    yield "parameters", "all floating-point numbers in the checkpoint, buffers such as codebooks and means among them"
    if any(entry.likelihood for entry in comparison.entries):
        yield "log p(x)", _of_likelihoods(comparison)
    for spec in _metric_specs(comparison):
        yield spec.name.replace("_", " "), spec.summary.rstrip(".")
    values = [value for entry in comparison.entries for value in entry.values.values() if of_samples(value)]
    for extractor in sorted({str(value["about"]["extractor"]) for value in values}):
        words = "the features in which samples are compared with data; values hold for this many examples alone"
        yield extractor.rpartition("/")[2], words
    yield "bold", "the best of its rivals, and whatever is not worse by more than two standard errors of the difference"


def _place(device: str, threads: int) -> str:
    return (
        f"the {device.upper()} with {threads} thread{'s' * (threads > 1)}" if device == "cpu" else f"a {device} device"
    )


def _of_likelihoods(comparison: Comparison) -> str:
    """How they were measured, and what may be compared with what."""
    samples = sorted({e.likelihood[5:] for e in comparison.entries if e.likelihood.startswith("iwae_")}, key=int)
    of = f" from {' or '.join(samples)} importance samples where there is a posterior" if samples else ""
    kinds = sorted({seen(entry) for entry in comparison.entries if entry.likelihood and entry.traits})
    made = [how for words, how in PIXELS.items() if any(kind.startswith(words) for kind in kinds)]
    return f"the mean over the examples, ± its standard error; ≥ is a lower bound{of}. Of a pixel v: {'; '.join(made)}"


def _metric_specs(comparison: Comparison) -> Iterator[MetricSpec]:
    """Of the metrics that have a column of their own."""
    refused = [set(e.stored.get("refused", {})) for e in comparison.entries if e.traits]
    for metric in comparison.asked.metrics:
        registration = default_host().find("metric", metric if isinstance(metric, str) else metric["type"])
        spec, told = registration.spec, ("iwae", "log_prob", "elbo")
        if (
            isinstance(spec, MetricSpec)
            and spec.name not in told
            and any(registration.full_name not in r for r in refused)
        ):
            yield spec


def _notes(comparison: Comparison) -> Iterator[str]:
    """What single models differ in from what is declared of them, and which metrics do not take them."""
    refusals: dict[str, list[str]] = {}
    for entry in comparison.entries:
        for difference in entry.traits.differences if entry.traits else ():
            yield f"{entry.name}: {difference}."
        for metric, reason in entry.stored.get("refused", {}).items():
            refusals.setdefault(f"{metric}: {reason}", []).append(entry.name)
    for refusal, names in refusals.items():
        yield f"{', '.join(names)}: no {refusal}."
