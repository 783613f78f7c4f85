"""Recipes that strangers wrote: YAML that grows, runs or misleads is refused in one sentence."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.watched import Watched, watched
from zoo_core import ConfigError
from zoo_core.training.reading import LARGEST_YAML, parse_yaml

SECONDS, MEMORY = 2.0, 200e6
RECIPE = """
data: {name: digits, preprocessing: {binarize: threshold}}
model:
  type: vae/vae
  encoder: {type: nets/mlp_encoder, latents: LATENTS, hidden: [8]}
  decoder: {type: nets/mlp_decoder, hidden: [8]}
  prior: nets/standard_normal
loss: {type: vae/elbo}
training: {steps: 1, batch: 8}
"""
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
)

CASES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "aliases that grow": (LAUGHS, ("values", "aliases")),
    "an alias of itself": ("a: &a [*a]", ("an alias stands inside of what it stands for",)),
    "a tag that runs": ("a: !!python/object/apply:os.abort []", ("tag", "python/object/apply:os.abort")),
    "a tag of one's own": ("a: !include /etc/passwd", ("tag", "'!include'")),
    "a binary": ("a: !!binary aGk=", ("tag", "binary")),
    "a set": ("a: !!set {a, b}", ("tag", "set")),
    "a key twice": ("name: a\nname: b", ("'name'", "twice")),
    "an inner key twice": ("model: {type: a, type: b}", ("'type'", "twice")),
    "deep": ("[" * 5000, ("levels deep",)),
    "huge": ("a: " + "x" * LARGEST_YAML, ("larger than",)),
    "huge in bytes": (b"a" * 5_000_000, ("larger than",)),
    "many digits": ("a: " + "1" * 5000, ("no number",)),
    "many hexadecimal digits": ("a: 0x" + "f" * 5000, ("no number",)),
    "not a number": ("a: .nan", ("no number",)),
    "infinite": ("a: -.Inf", ("no number",)),
    "no UTF-8": (b"a: \xff", ("UTF-8",)),
    "a null character": ("a: \0", ("no valid YAML",)),
    "escapes": (b"a\x1b[31m: [", ("no valid YAML",)),
    "two documents": ("a: 1\n---\nb: 2", ("no valid YAML",)),
    "a list": ("[1, 2]", ("a recipe is a mapping",)),
    "nothing": ("", ("a recipe is a mapping",)),
    "a key of another kind": ("{[1]: 2}", ("no valid YAML",)),
    "escapes in a name": ('"\\e[31mred\\nb": 1', (r"\x1b", r"\n")),
    "a model beyond all memory": (RECIPE.replace("LATENTS", "1_000_000_000_000"), ("encoder", "max_parameters")),
    "a model of endless layers": (
        RECIPE.replace("LATENTS", "2").replace("hidden: [8]", f"hidden: {[8] * 9_000}"),
        ("encoder", "modules and tensors"),
    ),
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched() as running:
        recipe = tmp_path_factory.mktemp("good") / "recipe.yaml"
        recipe.write_text(RECIPE.replace("LATENTS", "2"))
        assert running.zoo("train", recipe, "--dry-run").code == 0  # and everything has been imported
        yield running


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_a_sentence_at_once(name: str, process: Watched, tmp_path: Path) -> None:
    content, words = CASES[name]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    told = process.zoo("train", path, "--output", tmp_path / "run", "--dry-run")
    assert told.code == 2, told
    assert told.err.removesuffix("\n").isprintable()
    assert len(told.err) < 800
    for word in words:
        assert word in told.err
    assert told.seconds < SECONDS
    assert told.grown < MEMORY
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_opened(make: Callable[[Path], object], process: Watched, tmp_path: Path) -> None:
    make(tmp_path / "recipe.yaml")
    told = process.zoo("train", tmp_path / "recipe.yaml")
    assert (told.code, told.err) == (2, f"error: no recipe file {str(tmp_path / 'recipe.yaml')!r}\n")


def test_an_alias_is_what_it_stands_for() -> None:
    assert parse_yaml("- &a {b: 1}\n- *a\n- {<<: *a, c: 2}", "x") == [{"b": 1}, {"b": 1}, {"b": 1, "c": 2}]


def test_a_date_is_its_text() -> None:
    assert parse_yaml("a: 2024-01-01", "x") == {"a": "2024-01-01"}


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"\n #,?%@`.0e\\\t<~"), max_size=60))
def test_any_text_is_read_or_refused_in_a_line(text: str) -> None:
    said = ""
    try:
        parse_yaml(text, "x.yaml")
    except ConfigError as error:
        said = str(error)
    assert not said or (said.isprintable() and said.startswith("x.yaml: "))
