"""Specs: what they admit, that they stay as they are, and which parts fit together."""

import dataclasses
import itertools
import re
import string
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.installed import python
from zoo_core import specs
from zoo_core.specs import (
    LATENTS,
    CheckpointSpec,
    DatasetSpec,
    DecoderSpec,
    EncoderSpec,
    MetricSpec,
    ModelSpec,
    PosteriorSpec,
    PriorSpec,
    QuantizerSpec,
    Spec,
    latent_mismatch,
)

COMMON = {"name": "one", "target": "zoo_my.one:One", "summary": "One thing."}
OWN: dict[type[Spec], dict[str, Any]] = {
    MetricSpec: {"better": "lower", "unit": "nats"},
    ModelSpec: {"density": "bound", "sampling": "parallel", "latent": "compressed"},
    CheckpointSpec: {"hub": "me/one"},
}
EVERY = [c for c in vars(specs).values() if isinstance(c, type) and issubclass(c, Spec) and c is not Spec]

few = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def make(spec: type[Spec], **fields: Any) -> Spec:
    return spec(**{**COMMON, **OWN.get(spec, {}), **fields})


def refusal(spec: type[Spec], **fields: Any) -> str:
    with pytest.raises(ValueError, match=re.escape(next(iter(fields)))) as caught:
        make(spec, **fields)
    return str(caught.value)


def is_name(text: str) -> bool:
    parts = text.replace("-", "_").split("_")
    return text[:1] in {*string.ascii_lowercase} and all(
        part and {*part} <= {*string.ascii_lowercase, *string.digits} for part in parts
    )


def is_target(text: str) -> bool:
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isascii() and part.isidentifier() for part in [*module.split("."), name])


def accepted(**fields: Any) -> bool:
    try:
        make(PriorSpec, **fields)
    except ValueError:
        return False
    return True


@few
@given(st.text("abz09_-") | st.text("azA0_-. /é²\n"))
def test_a_name_is_lower_case_words_joined(name: str) -> None:
    assert accepted(name=name) == is_name(name)


@few
@given(
    st.text("aZ0_.:")
    | st.text("aZ_.: -/é\n")
    | st.lists(st.sampled_from(["a", "Zoo", "_b", "9", "."]), min_size=1).map(lambda p: ".".join(p) + ":Name")
)
def test_a_target_is_a_module_and_a_name(target: str) -> None:
    assert accepted(target=target) == is_target(target)


@pytest.mark.parametrize("name", ["a", "vae", "beta_tc", "vq-vae2", "a1-b2_c3"])
def test_usual_names_are_accepted(name: str) -> None:
    assert accepted(name=name)


@pytest.mark.parametrize("target", ["m:f", "zoo_vae.beta_tc:BetaTC", "_a._b.c1:_D"])
def test_usual_targets_are_accepted(target: str) -> None:
    assert accepted(target=target)


@pytest.mark.parametrize("field", ["name", "target", "summary"])
@pytest.mark.parametrize("value", [None, 3, b"a:b", ["a"]])
@pytest.mark.parametrize("spec", EVERY)
def test_what_is_no_string_is_refused_by_every_spec(spec: type[Spec], field: str, value: object) -> None:
    assert refusal(spec, **{field: value})


@pytest.mark.parametrize("summary", ["", " ", "two\nlines", "one\n", "a\rb", "a\u2028b"])
def test_a_summary_is_one_line(summary: str) -> None:
    assert "use one line" in refusal(PriorSpec, summary=summary)


def test_a_refusal_names_the_field_the_value_and_the_form() -> None:
    form = "use lower-case letters and digits, joined by '_' or '-'"
    assert refusal(PriorSpec, name="Real NVP") == f"name 'Real NVP': {form}"
    assert refusal(PriorSpec, target="zoo_my.flow") == "target 'zoo_my.flow' of 'one': use 'package.module:Name'"


@pytest.mark.parametrize("spec", EVERY)
def test_only_a_checkpoint_may_lie_nowhere(spec: type[Spec]) -> None:
    if spec is CheckpointSpec:
        assert make(spec, target="").target == ""
    else:
        refusal(spec, target="")


@pytest.mark.parametrize(("spec", "field"), [
    (EncoderSpec, "emits"), (DecoderSpec, "accepts"), (PriorSpec, "accepts"), (QuantizerSpec, "accepts"),
])  # fmt: skip
def test_latents_come_from_the_vocabulary(spec: type[Spec], field: str) -> None:
    assert getattr(make(spec, **{field: tuple(LATENTS)}), field) == tuple(LATENTS)
    for wrong in ((), "vector[real]", ["vector[real]"], ("vector",), ("vector[real]", "cube[real]"), None):
        message = refusal(spec, **{field: wrong})
        assert repr(wrong) in message
        assert "vector[real]" in message


def test_the_vocabulary_is_three_layouts_of_two_supports() -> None:
    assert {f"{layout}[{s}]" for layout in ("vector", "grid", "sequence") for s in ("real", "codes")} == LATENTS


@pytest.mark.parametrize(("spec", "field", "allowed"), [
    (MetricSpec, "better", ["lower", "higher", "neither"]),
    (ModelSpec, "density", ["exact", "bound", "none"]),
    (ModelSpec, "sampling", ["parallel", "sequential", "none"]),
    (ModelSpec, "latent", ["compressed", "full", "none"]),
])  # fmt: skip
def test_a_promise_is_one_of_a_few_words(spec: type[Spec], field: str, allowed: list[str]) -> None:
    assert [getattr(make(spec, **{field: word}), field) for word in allowed] == allowed
    for wrong in (allowed[0].title(), "", None, "excat"):
        message = refusal(spec, **{field: wrong})
        assert all(repr(word) in message for word in [*allowed, wrong])


@pytest.mark.parametrize("splits", ["train", (), ["train"], ("train", ""), ("train", 3), None])
def test_splits_are_a_tuple_of_names(splits: object) -> None:
    assert repr(splits) in refusal(DatasetSpec, splits=splits)


@pytest.mark.parametrize(("field", "good", "wrong"), [
    ("hub", ["me/vae", "latent-zoo/vae.v2_1"], ["vae", "", "a/b/c", "me/", "../x/y", "me/vae ", None]),
    ("revision", ["", "0123456789" * 4], ["main", "0" * 39, "0" * 41, "G" * 40, "A" * 40, None]),
    ("sha256", ["", "0123456789abcdef" * 4], ["0" * 63, "0" * 65, "x" * 64, 0, None]),
])  # fmt: skip
def test_a_checkpoint_is_pinned_by_whole_hashes(field: str, good: list[str], wrong: list[object]) -> None:
    assert [getattr(make(CheckpointSpec, **{field: value}), field) for value in good] == good
    for value in wrong:
        assert repr(value) in refusal(CheckpointSpec, **{field: value})


@pytest.mark.parametrize("spec", EVERY)
def test_specs_are_frozen_values(spec: type[Spec]) -> None:
    one = make(spec)
    for field in dataclasses.fields(one):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, getattr(one, field.name))
    assert one == make(spec)
    assert hash(one) == hash(make(spec))
    assert one != make(spec, name="other")
    assert dataclasses.replace(one, name="other") == make(spec, name="other")


@pytest.mark.parametrize("spec", EVERY)
def test_fields_are_given_by_name(spec: type[Spec]) -> None:
    assert all(field.kw_only for field in dataclasses.fields(spec))
    with pytest.raises(TypeError):
        spec("one", "zoo_my.one:One", "One thing.")  # type: ignore[misc]


def test_every_spec_has_a_kind_of_its_own() -> None:
    assert len({spec.kind for spec in EVERY}) == len(EVERY) == 12


# A role's spec, with what it emits or accepts.
ROLES = {"encoder": EncoderSpec, "quantizer": QuantizerSpec, "decoder": DecoderSpec, "prior": PriorSpec}


def part(role: str, *latents: str) -> Spec:
    field = "emits" if role == "encoder" else "accepts"
    return make(ROLES[role], name=f"the-{role}", **{field: tuple(latents)})


def latents_of(spec: Spec) -> set[str]:
    return set(getattr(spec, "emits", None) or getattr(spec, "accepts", ()))


def fit(parts: Mapping[str, Spec]) -> bool:
    """Whether some one latent can pass through all parts, the prior seeing its codes behind a quantizer."""
    coded = "quantizer" in parts

    def passes(latent: str) -> bool:
        seen = {"prior": latent.replace("real", "codes") if coded else latent}
        return all(seen.get(role, latent) in latents_of(spec) for role, spec in parts.items())

    return any(map(passes, LATENTS))


REAL, CODES = ("vector[real]", "grid[real]"), ("vector[codes]", "grid[codes]")
TABLE = [
    (True, {}),
    (True, {"prior": CODES}),
    (True, {"encoder": REAL, "decoder": REAL, "prior": REAL}),
    (True, {"encoder": REAL, "decoder": REAL[:1], "prior": REAL[:1]}),
    (True, {"encoder": CODES, "decoder": CODES, "prior": CODES}),
    (True, {"encoder": REAL, "quantizer": REAL, "decoder": REAL, "prior": CODES}),
    (True, {"quantizer": REAL[1:], "prior": CODES[1:]}),
    (False, {"encoder": REAL[:1], "decoder": REAL[1:]}),
    (False, {"encoder": REAL[:1], "prior": REAL[1:]}),
    (False, {"decoder": REAL[:1], "prior": REAL[1:]}),
    (False, {"encoder": REAL, "prior": CODES}),
    (False, {"encoder": REAL, "decoder": REAL[:1], "prior": REAL[1:]}),
    (False, {"encoder": CODES, "quantizer": REAL}),
    (False, {"encoder": REAL, "quantizer": REAL, "decoder": CODES}),
    (False, {"encoder": REAL, "quantizer": REAL, "decoder": REAL, "prior": REAL}),
    (False, {"encoder": REAL, "quantizer": REAL[1:], "decoder": REAL, "prior": CODES[:1]}),
    (False, {"encoder": REAL, "quantizer": REAL, "decoder": REAL[:1], "prior": CODES[1:]}),
    (False, {"encoder": ("vector[real]", "grid[codes]"), "quantizer": REAL, "prior": ("grid[codes]",)}),
]


@pytest.mark.parametrize(("fits", "latents"), TABLE)
def test_which_parts_make_a_model(fits: bool, latents: dict[str, tuple[str, ...]]) -> None:
    parts = {role: part(role, *own) for role, own in latents.items()}
    assert (latent_mismatch(parts) is None) == fits == fit(parts)


def choices(role: str) -> list[Spec | None]:
    latents = ("vector[real]", "grid[real]", "grid[codes]")
    subsets = itertools.chain.from_iterable(itertools.combinations(latents, n) for n in (1, 2, 3))
    return [None, *(part(role, *subset) for subset in subsets)]


def test_parts_fit_exactly_when_one_latent_passes_through_all() -> None:
    verdicts = set()
    for chosen in itertools.product(*map(choices, ROLES)):
        parts = {role: spec for role, spec in zip(ROLES, chosen, strict=True) if spec}
        reason = latent_mismatch(parts)
        assert (reason is None) == fit(parts), (parts, reason)
        if reason:
            check_refusal(reason, parts)
        verdicts.add(reason is None)
    assert verdicts == {True, False}


def check_refusal(reason: str, parts: Mapping[str, Spec]) -> None:
    """Both sides are named, in the words of their specs, and those named are enough to refuse."""
    before, _, misfit = reason.partition(", but ")
    named = {role for role, spec in parts.items() if repr(spec.name) in reason}
    assert len([role for role in named if repr(parts[role].name) in misfit]) == 1, reason
    assert len([role for role in named if repr(parts[role].name) in before]) >= 1, reason
    told = misfit.partition("accepts ")[2].split(" or ")
    assert set(told) == latents_of(next(s for s in parts.values() if repr(s.name) in misfit))
    culprits = {role: spec for role, spec in parts.items() if role in named | {"quantizer"}}
    assert not fit(culprits), reason


@pytest.mark.parametrize(("middle", "sentence"), [
    (part("decoder", *REAL), "encoder 'the-encoder' emits grid[real], but prior 'the-prior' accepts vector[real]"),
    (part("quantizer", *REAL), "quantizer 'the-quantizer' emits codes, but prior 'the-prior' accepts vector[real]"),
])  # fmt: skip
def test_a_refusal_reads_as_a_sentence(middle: Spec, sentence: str) -> None:
    ends = {"encoder": part("encoder", "grid[real]"), "prior": part("prior", "vector[real]")}
    assert latent_mismatch({**ends, middle.kind: middle}) == sentence


def test_the_order_in_which_parts_are_given_does_not_matter() -> None:
    parts = {role: part(role, "grid[codes]" if role == "prior" else "vector[real]") for role in ROLES}
    reasons = {latent_mismatch(dict(order)) for order in itertools.permutations(parts.items())}
    assert len(reasons) == 1
    assert None not in reasons


def test_other_parts_of_a_model_have_no_say() -> None:
    posterior = make(PosteriorSpec)
    assert latent_mismatch({"posterior": posterior, "encoder": part("encoder", *REAL)}) is None


def test_specs_need_no_torch() -> None:
    done = python("-c", "import sys, zoo_core.specs; print(sorted({'torch', 'numpy', 'pluggy'} & {*sys.modules}))")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
