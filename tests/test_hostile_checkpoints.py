"""What strangers may have made: each is refused by the command line in one sentence, at once, and nothing is changed.

The commands run in one process under a watchdog (``tests.watched``): an attack that works hangs, fills the memory, or
ends in something else than a sentence.
"""

import hashlib
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.registered import told_model
from tests.watched import Outcome, Watched, watched
from zoo_core import build
from zoo_core.pretrained import save_pretrained
from zoo_core.weights import digest

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
SHAPE = (1, 4, 4)
BIAS = "decoder.body.1.bias"
SECRET = "hunter2-the-password"
SECONDS, MEMORY = 2.0, 200e6
MLP = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [8]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [8]},
    "prior": {"type": "nets/gaussian_mixture", "components": 3},
}

Change = Callable[[Path], object]


# --- how checkpoints are damaged ------------------------------------------------------------------------


def put(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def text(name: str, change: Callable[[str], str]) -> Change:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def edited(change: Callable[[Any], object]) -> Change:
    def edit(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        change(config)
        (folder / CONFIG).write_text(json.dumps(config))

    return edit


def field(path: str, value: Any) -> Change:
    def change(config: Any) -> None:
        *parents, last = path.split("/")
        for name in parents:
            config = config[name]
        config[last] = value

    return edited(change)


def cut(name: str, size: int) -> Change:
    return lambda folder: os.truncate(folder / name, size)


def replaced(name: str, make: Change) -> Change:
    """Something else than a file in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def linked(name: str, target: str) -> Change:
    return replaced(name, lambda path: path.symlink_to(target.format(folder=path.parent)))


def sealed(change: Change, *names: str) -> Change:
    """With the hashes that the files have then, as who made them would write."""

    def both(folder: Path) -> None:
        change(folder)
        for key, name in (("weights", WEIGHTS), ("files", TOKENIZER)):
            if name in names or (not names and name == WEIGHTS):
                field(f"{key}/{name}", digest(folder / name))(folder)

    return both


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def both(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return sealed(both)


def header(change: Callable[[Any], Any], *, length: int | None = None, data: int | None = None) -> Change:
    """A header that lies: ``change`` may return the JSON itself; ``length``, ``data``: what is told, what is there."""

    def both(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        size = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + size])
        changed = change(told)
        text = changed if isinstance(changed, bytes) else json.dumps(told).encode()
        body = content[8 + size :]
        with (folder / WEIGHTS).open("wb") as file:
            file.write(struct.pack("<Q", len(text) if length is None else length) + text)
            file.write(body if data is None else b"")
            if data is not None:
                file.truncate(8 + len(text) + data)

    return both


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Executed()))


class Executed:
    def __reduce__(self) -> Any:
        return os.abort, ()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        os.chdir(path.parent)  # the address has room for 108 bytes
        end.bind(path.name)


def secret_json(folder: Path) -> None:
    """A file of the user's beside the folder, of which nothing may be told."""
    (folder.parent / "secret").write_text(SECRET)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def swollen(folder: Path) -> None:
    """One tensor has 8 GB where its shape has 32 bytes, and the file has them too."""
    header(lambda h: h[BIAS].update(data_offsets=[0, 2**33]))(folder)
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + 2**33 - 32)


def many_tensors(told: dict[str, Any]) -> None:
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [told[BIAS]["data_offsets"][0]] * 2}
    told.update({f"extra.{i}": nothing for i in range(40_000)})


def nested(depth: int) -> Change:
    """Models in the place of priors, one in the other."""
    shell = json.dumps({**MLP, "prior": "HERE"})
    begin, end = shell.split('"HERE"')
    inner = begin * depth + '"nets/standard_normal"' + end * depth
    return both(field("model", "HERE"), text(CONFIG, lambda t: t.replace('"HERE"', inner)))


def with_key(line: str) -> Callable[[str], str]:
    """A line at the beginning of a JSON object."""
    return lambda content: content.replace("{", "{" + line + ",", 1)


HUGE = 10**12
ANSI = "\x1b[31mred\x1b]0;title\x07\u202e"
PADDING = {
    "strategy": {"Fixed": HUGE}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "a",
}  # fmt: skip
SEARCH = '"pattern": {"Regex": "(a*)*b"}, "content": ""'
OTHER = "model-00002-of-00002.safetensors"


class Case(NamedTuple):
    change: Change
    words: tuple[str, ...]
    base: str = "plain"


def case(change: Change, *words: str, base: str = "plain") -> Case:
    return Case(change, words, base)


CASES: dict[str, Case] = {
    # what is no file at all
    "config missing": case(lambda f: (f / CONFIG).unlink(), CONFIG),
    "config a directory": case(replaced(CONFIG, Path.mkdir), CONFIG, "no regular file"),
    "config a fifo": case(replaced(CONFIG, fifo), CONFIG, "no regular file"),
    "config a socket": case(replaced(CONFIG, listening), CONFIG, "no regular file"),
    "config linked to a device": case(linked(CONFIG, "/dev/zero"), CONFIG, "leads out of"),
    "config linked to a secret": case(both(secret_json, linked(CONFIG, "../secret")), CONFIG, "leads out of"),
    "config linked to itself": case(linked(CONFIG, CONFIG), CONFIG),
    "config linked to nothing": case(linked(CONFIG, "gone"), CONFIG),
    "weights a directory": case(replaced(WEIGHTS, Path.mkdir), WEIGHTS, "no regular file"),
    "weights a fifo": case(replaced(WEIGHTS, fifo), WEIGHTS, "no regular file"),
    "weights linked to a device": case(linked(WEIGHTS, "/dev/zero"), WEIGHTS, "leads out of"),
    "weights linked out": case(linked(WEIGHTS, "/etc/hostname"), WEIGHTS, "leads out of"),
    "weights linked out by a folder": case(
        both(lambda f: (f / "inner").symlink_to("/etc"), linked(WEIGHTS, "inner/hostname")), WEIGHTS, "leads out of"),
    "weights linked to where a Hub's cache would have them": case(
        both(lambda f: (f / "blobs").symlink_to("/etc"), linked(WEIGHTS, "blobs/hostname")), WEIGHTS, "leads out of"),
    "weights unreadable": case(replaced(WEIGHTS, lambda p: p.touch(0)), WEIGHTS),
    "tokenizer a fifo": case(replaced(TOKENIZER, fifo), TOKENIZER, "no regular file", base="told"),
    "tokenizer linked out": case(linked(TOKENIZER, "/etc/hostname"), TOKENIZER, "leads out of", base="told"),
    # config.json as text
    "config empty": case(put(CONFIG, b""), CONFIG, "JSON"),
    "config cut": case(cut(CONFIG, 100), CONFIG, "JSON"),
    "config binary": case(put(CONFIG, bytes(range(256))), CONFIG, "UTF-8"),
    "config latin-1": case(put(CONFIG, b'{"name": "caf\xe9"}'), CONFIG, "UTF-8"),
    "config utf-16": case(lambda f: (f / CONFIG).write_text((f / CONFIG).read_text(), "utf-16"), CONFIG, "UTF-8"),
    "config with a byte order mark": case(
        lambda f: (f / CONFIG).write_text((f / CONFIG).read_text(), "utf-8-sig"), CONFIG, "byte order mark"),
    "config deep": case(put(CONFIG, deep(100_000).encode()), CONFIG, "deep"),
    "config deep and open": case(put(CONFIG, b"[" * 1_000_000), CONFIG, "deep"),
    "config deep in a field": case(
        text(CONFIG, with_key(f'"x": {deep(500)}')), CONFIG, "deep"),
    "config with a key twice": case(text(CONFIG, with_key('"format": 1')), CONFIG, "'format'", "twice"),
    "config with an inner key twice": case(
        text(CONFIG, lambda t: t.replace('"latents": 2', '"latents": 2, "latents": 3')), CONFIG, "'latents'", "twice"),
    "config with NaN": case(text(CONFIG, with_key('"x": NaN')), CONFIG, "NaN"),
    "config with infinity": case(text(CONFIG, with_key('"x": -Infinity')), CONFIG, "Infinity"),
    "config with an infinite number": case(text(CONFIG, with_key('"x": 1e999')), CONFIG, "1e999"),
    "config with a number of many digits": case(text(CONFIG, with_key(f'"x": {"9" * 100_000}')), CONFIG, "digits"),
    "config huge": case(put(CONFIG, b" " * (5 * 2**20)), CONFIG, "larger than"),
    "config huge and sparse": case(lambda f: os.truncate(f / CONFIG, 8 << 30), CONFIG, "larger than"),
    "config of many small values": case(put(CONFIG, b"[" + b"{}," * 340_000 + b"{}]"), CONFIG, "objects and lists"),
    "config with half a character": case(text(CONFIG, with_key(r'"x": "\ud800"')), CONFIG, "UTF-8"),
    "config a list": case(put(CONFIG, b"[]"), CONFIG, "'format'"),
    # fields
    "format a boolean": case(field("format", True), CONFIG, "'format'"),
    "format 0": case(field("format", 0), CONFIG, "'format'"),
    "format negative": case(field("format", -1), CONFIG, "'format'"),
    "format huge": case(field("format", 10**300), CONFIG, "format"),
    "format newer": case(field("format", 2), CONFIG, "format 2"),
    "field unknown": case(field("auto_map", {"AutoModel": "model.Evil"}), CONFIG, "'auto_map'"),
    "field unknown with escapes": case(field(ANSI, 1), CONFIG, r"\x1b"),
    "shape negative": case(field("data_shape", [1, -4, 4]), CONFIG, "data_shape[1]"),
    "shape of booleans": case(field("data_shape", [True, 4, 4]), CONFIG, "data_shape[0]"),
    "shape of zeros": case(field("data_shape", [0, 4, 4]), CONFIG, "data_shape[0]"),
    "shape of fractions": case(field("data_shape", [1.0, 4, 4]), CONFIG, "data_shape[0]"),
    "shape empty": case(field("data_shape", []), CONFIG, "data_shape"),
    "shape huge": case(field("data_shape", [1, 2**40, 2**40]), CONFIG, "data_shape"),
    "shape a bit too large": case(field("data_shape", [1, 2**21, 2**21]), CONFIG, "data_shape"),
    "shape of many dimensions": case(field("data_shape", [1] * 10_000), CONFIG, "data_shape"),
    "weights none": case(field("weights", {}), CONFIG, "weights"),
    "weights many": case(
        field("weights", {f"model.v{i}.safetensors": "0" * 64 for i in range(5_000)}), CONFIG, "weights",
        "lists 5000 files"),
    "files many": case(
        field("files", {f"f{i}": "0" * 64 for i in range(5_000)}), CONFIG, "files", "lists 5000 files"),
    "files not asked for": case(field("files", {"vocab.txt": "0" * 64}), CONFIG, "files"),
    "files a list": case(field("files", ["vocab.txt"]), CONFIG, "files"),
    "files leading out": case(field("files", {"../secret": "0" * 64}), CONFIG, "files", "'../secret'"),
    "files called like the config": case(field("files", {CONFIG: "0" * 64}), CONFIG, "files"),
    "files missing": case(lambda f: edited(lambda c: c.pop("files"))(f), CONFIG, "files", base="told"),
    "preprocessing unknown": case(field("preprocessing/crop", 3), CONFIG, "preprocessing.crop"),
    "preprocessing huge": case(field("preprocessing/image_size", [10**9, 10**9]), CONFIG, "image_size"),
    "preprocessing a mapping": case(field("preprocessing/binarize", {"a": 1}), CONFIG, "binarize"),
    "preprocessing of many names": case(
        field("preprocessing", {f"k{i}": 1 for i in range(10_000)}), CONFIG, "preprocessing"),
    "provenance huge": case(field("provenance", {"x": "y" * 3_900_000, "z": "z" * 500_000}), CONFIG, "larger than"),
    # the model's config
    "plugin unknown": case(field("model/type", "stranger/vae"), CONFIG, "model", "'stranger/vae'"),
    "type unknown and long": case(field("model/type", "vae/" + "a" * 1_000_000), CONFIG, "model"),
    "type with escapes": case(field("model/type", f"vae/{ANSI}"), CONFIG, r"\x1b"),
    "type an import path": case(field("model/type", "os:system"), CONFIG, "model", "'os:system'"),
    "type a module": case(field("model/type", "zoo_vae.vae:VAE"), CONFIG, "model"),
    "type a number": case(field("model/type", 7), CONFIG, "model"),
    "type a list": case(field("model/type", ["vae/vae"]), CONFIG, "model"),
    "kind wrong": case(field("model/type", "nets/mlp_encoder"), CONFIG, "model"),
    "kind of a part wrong": case(field("model/prior", "vae/elbo"), CONFIG, "model.prior", "loss"),
    "argument unknown": case(field("model/encoder/trust_remote_code", True), CONFIG, "model.encoder.trust_remote_code"),
    "argument unknown with escapes": case(field(f"model/encoder/{ANSI}", 1), CONFIG, r"\x1b"),
    "argument unknown of several lines": case(field("model/encoder/a\nb", 1), CONFIG, r"\n"),
    "argument unknown and long": case(field("model/encoder/" + "latents" * 100_000, 1), CONFIG, "model.encoder"),
    "argument negative": case(field("model/encoder/latents", -2), CONFIG, "model.encoder.latents"),
    "argument a boolean": case(field("model/encoder/latents", True), CONFIG, "model.encoder.latents"),
    "argument infinitely large": case(field("model/encoder/latents", 10**400), CONFIG, "latents"),
    "argument a long text": case(field("model/encoder/latents", "x" * 1_000_000), CONFIG, "model.encoder.latents"),
    "width absurd": case(field("model/encoder/hidden", [HUGE, HUGE]), CONFIG, "encoder", "max_parameters"),
    "width large": case(field("model/encoder/hidden", [200_000, 200_000]), CONFIG, "encoder", "max_parameters"),
    "layers absurd": case(field("model/encoder/hidden", [8] * 9_000), CONFIG, "encoder", "max_parameters"),
    "layers listed endlessly": case(
        field("model/encoder/hidden", [8] * 300_000), CONFIG, "model.encoder.hidden", "300000"),
    "latents absurd": case(field("model/encoder/latents", HUGE), CONFIG, "max_parameters"),
    "components absurd": case(field("model/prior/components", 10**11), CONFIG, "max_parameters"),
    "blocks absurd": case(
        field("model/encoder", {"type": "nets/resnet_encoder", "latents": 2, "channels": [4], "blocks": 10**9}),
        CONFIG, "encoder", "max_parameters"),
    "models in models": case(nested(2000), CONFIG),
    "models in models not so deep": case(nested(40), WEIGHTS),
    "pretrained in a config": case(field("model/prior", {"pretrained": "/etc"}), CONFIG, "model.prior"),
    # weights by who does not know their hash
    "weights missing": case(lambda f: (f / WEIGHTS).unlink(), WEIGHTS),
    "weights empty": case(put(WEIGHTS, b""), WEIGHTS),
    "weights of seven bytes": case(put(WEIGHTS, b"1234567"), WEIGHTS),
    "weights cut": case(cut(WEIGHTS, 1000), WEIGHTS),
    "weights longer": case(lambda f: os.truncate(f / WEIGHTS, 100_000), WEIGHTS),
    "weights of another model with the right hash": case(
        tensors(lambda s: s.clear()), WEIGHTS, "is missing"),
    "weights flipped": case(
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1] + b"\x77"), WEIGHTS, "SHA-256"),
    "hash of another file": case(field(f"weights/{WEIGHTS}", "0" * 64), WEIGHTS, "SHA-256"),
    "hash no hash": case(field(f"weights/{WEIGHTS}", "abc"), CONFIG, "weights"),
    # weights by who knows
    "header length zero": case(sealed(header(lambda h: b"")), WEIGHTS, "header"),
    "header length beyond the file": case(sealed(header(lambda h: None, length=10_000_000)), WEIGHTS, "header"),
    "header length negative": case(sealed(header(lambda h: None, length=2**64 - 1)), WEIGHTS, "header"),
    "header length astronomic": case(sealed(header(lambda h: None, length=2**62)), WEIGHTS, "header"),
    "header length short": case(sealed(header(lambda h: None, length=10)), WEIGHTS),
    "header of spaces": case(sealed(header(lambda h: b" " * 5000)), WEIGHTS),
    "header huge": case(
        sealed(header(lambda h: b"{" + b" " * 20_000_000 + b"}")), WEIGHTS, "a header of 20000002 bytes"),
    "header deep": case(sealed(header(lambda h: b'{"a":' + b"[" * 100_000)), WEIGHTS),
    "header no UTF-8": case(sealed(header(lambda h: b'{"\xff\xfe": {}}')), WEIGHTS),
    "header of many tensors": case(sealed(header(many_tensors)), WEIGHTS, "is not in the model"),
    "header with a tensor twice": case(
        sealed(header(lambda h: json.dumps(h)[:-1].encode() + b', "%s": %s}' % (
            BIAS.encode(), json.dumps(h[BIAS]).encode()))), WEIGHTS, "twice"),
    "header with overlapping tensors": case(
        sealed(header(lambda h: h[BIAS].update(data_offsets=[4, 36]))), WEIGHTS),
    "header with offsets beyond": case(
        sealed(header(lambda h: h[BIAS].update(data_offsets=[2**60, 2**60 + 32]))), WEIGHTS),
    "header with offsets backwards": case(
        sealed(header(lambda h: h[BIAS].update(data_offsets=[32, 0]))), WEIGHTS),
    "header with a negative shape": case(sealed(header(lambda h: h[BIAS].update(shape=[-8]))), WEIGHTS),
    "header with an overflowing shape": case(
        sealed(header(lambda h: h[BIAS].update(shape=[2**32, 2**32]))), WEIGHTS),
    "header with an unknown dtype": case(sealed(header(lambda h: h[BIAS].update(dtype=f"Q9{ANSI}"))), WEIGHTS),
    "header with a long dtype": case(sealed(header(lambda h: h[BIAS].update(dtype="Q" * 1_000_000))), WEIGHTS),
    "header with metadata of another kind": case(
        sealed(header(lambda h: h.update(__metadata__={"a": [1]}))), WEIGHTS),
    "sparse 8 GB": case(
        header(lambda h: h.clear() or h.update(
            {"w": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}), data=2**33),
        WEIGHTS, "does not fit its config"),
    "sparse 8 GB of one small tensor": case(swollen, WEIGHTS, "header", BIAS),
    "sparse 8 GB of zeros": case(lambda f: os.truncate(f / WEIGHTS, 2**33), WEIGHTS),
    "sparse 8 GB from nothing": case(both(put(WEIGHTS, b""), lambda f: os.truncate(f / WEIGHTS, 2**33)), WEIGHTS),
    "name with escapes": case(tensors(lambda s: s.update({ANSI: torch.ones(1)})), WEIGHTS, r"\x1b"),
    "name of several lines": case(tensors(lambda s: s.update({"a\nb": torch.ones(1)})), WEIGHTS, r"\n"),
    "name long": case(tensors(lambda s: s.update({"n" * 1_000_000: torch.ones(1)})), WEIGHTS),
    "tensor missing": case(tensors(lambda s: s.pop(BIAS)), WEIGHTS, f"{BIAS!r} is missing"),
    "tensor too many": case(tensors(lambda s: s.update(x=torch.ones(1))), WEIGHTS, "'x' is not in the model"),
    "tensor of another shape": case(tensors(lambda s: s.update({BIAS: torch.ones(9)})), WEIGHTS, BIAS),
    "tensor of integers": case(tensors(lambda s: s.update({BIAS: torch.ones(8).long()})), WEIGHTS, BIAS),
    "tensor of eight bits": case(
        tensors(lambda s: s.update({BIAS: torch.ones(8).to(torch.float8_e5m2)})), WEIGHTS, BIAS),
    "tensor with nan": case(tensors(lambda s: s[BIAS].fill_(torch.nan)), WEIGHTS, BIAS, "nan"),
    "tensor with one nan": case(tensors(lambda s: s[BIAS][-1:].fill_(torch.nan)), WEIGHTS, BIAS, "nan"),
    "tensor with inf": case(tensors(lambda s: s[BIAS][:1].fill_(torch.inf)), WEIGHTS, BIAS, "inf"),
    "tensor with -inf": case(tensors(lambda s: s[BIAS][3:4].fill_(-torch.inf)), WEIGHTS, BIAS, "inf"),
    "tensor too large for float32": case(
        tensors(lambda s: s.update({BIAS: torch.full((8,), 1e300, dtype=torch.float64)})), WEIGHTS, BIAS),
    "weights a pickle": case(sealed(put(WEIGHTS, pickle.dumps(Executed()))), WEIGHTS),
    "weights by torch.save": case(sealed(lambda f: torch.save(Executed(), f / WEIGHTS)), WEIGHTS),
    "weights a zip": case(sealed(lambda f: zipped(f / WEIGHTS)), WEIGHTS),
    "weights JSON": case(sealed(lambda f: shutil.copy(f / CONFIG, f / WEIGHTS)), WEIGHTS),
    "pickle listed": case(
        both(lambda f: (f / "pytorch_model.bin").write_bytes(pickle.dumps(Executed())),
             field("weights", {"pytorch_model.bin": "0" * 64})), CONFIG, "weights", "'pytorch_model.bin'"),
    # in shards
    **{
        f"shard called {name}": case(
            edited(lambda c, name=name: c["weights"].update({name: "0" * 64})), CONFIG, "weights", repr(name),
            base="sharded")
        for name in ("../model.safetensors", "/etc/passwd", "a/model.safetensors", "model.safetensors/../x", "..",
                     "model-00001-of-00002.safetensors\n", "model-٠٠٠٠١-of-٠٠٠٠٢.safetensors")
    },
    "shard missing": case(lambda f: (f / OTHER).unlink(), OTHER, base="sharded"),
    "shard unlisted": case(
        lambda f: edited(lambda c: c["weights"].pop(OTHER))(f), "safetensors", "is missing", base="sharded"),
    "shard twice": case(lambda f: edited(lambda c: c["weights"].update(
        {WEIGHTS: digest(shutil.copy(f / OTHER, f / WEIGHTS))}))(f), "in another file too", base="sharded"),
    "shard linked out": case(linked(OTHER, "/etc/hostname"), OTHER, "leads out of", base="sharded"),
    "shard a fifo": case(replaced(OTHER, fifo), OTHER, "no regular file", base="sharded"),
    # files of a model's own
    "tokenizer empty": case(sealed(put(TOKENIZER, b""), TOKENIZER), TOKENIZER, base="told"),
    "tokenizer cut": case(sealed(cut(TOKENIZER, 300), TOKENIZER), TOKENIZER, base="told"),
    "tokenizer exchanged": case(put(TOKENIZER, b"{}"), TOKENIZER, "SHA-256", base="told"),
    "tokenizer no UTF-8": case(sealed(put(TOKENIZER, b'{"a": "\xff"}'), TOKENIZER), TOKENIZER, base="told"),
    "tokenizer deep": case(
        sealed(put(TOKENIZER, deep(100_000).encode()), TOKENIZER), TOKENIZER, base="told"),
    "tokenizer with a key twice": case(
        sealed(text(TOKENIZER, with_key('"version": "2"')), TOKENIZER), TOKENIZER, "twice", base="told"),
    "tokenizer a list": case(sealed(put(TOKENIZER, b"[]"), TOKENIZER), TOKENIZER, base="told"),
    "tokenizer of words": case(
        sealed(put(TOKENIZER, json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}).encode()), TOKENIZER),
        TOKENIZER, base="told"),
    "tokenizer with numbers beyond the vocabulary": case(
        sealed(text(TOKENIZER, lambda t: t.replace('": 255', '": 4000000000')), TOKENIZER), TOKENIZER, base="told"),
    "tokenizer that pads": case(
        sealed(text(TOKENIZER, lambda t: t.replace('"padding": null', '"padding": ' + json.dumps(PADDING))), TOKENIZER),
        TOKENIZER, "'padding'", base="told"),
    "tokenizer that searches": case(
        sealed(text(TOKENIZER, lambda t: t.replace('"type": "Lowercase"', f'"type": "Replace", {SEARCH}')), TOKENIZER),
        TOKENIZER, "'Replace'", base="told"),
    "tokenizer huge": case(lambda f: os.truncate(f / TOKENIZER, 2**33), TOKENIZER, "larger than", base="told"),
    "tokenizer missing": case(lambda f: (f / TOKENIZER).unlink(), TOKENIZER, base="told"),
}  # fmt: skip


# --- the attacks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process() -> Iterator[Watched]:
    with watched() as running:
        yield running


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good checkpoints by name; not to be changed."""
    torch.manual_seed(0)
    folder, plain = tmp_path_factory.mktemp("bases"), build(MLP, "model", data_shape=SHAPE)
    half = sum(t.nbytes for t in plain.state_dict().values()) * 2 // 3
    made = {
        "plain": save_pretrained(plain, folder / "plain"),
        "sharded": save_pretrained(plain, folder / "sharded", max_shard_size=half),
        "told": save_pretrained(told_model("dalle/scorer"), folder / "told"),
    }
    assert (made["sharded"] / OTHER).is_file()
    return made


def tree(folder: Path) -> dict[str, Any]:
    """All that is in a folder: kinds, times, and contents where they are not absurdly large."""
    told = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() and about.st_size < 2**26 and (
            about.st_mode & 0o400) else b""  # fmt: skip
        told[str(path.relative_to(folder))] = (
            about.st_mode,
            about.st_size,
            about.st_mtime_ns,
            hashlib.md5(content).digest(),
        )
    return told


def attacked(name: str, bases: dict[str, Path], place: Path) -> Path:
    change, _, base = CASES[name]
    folder = Path(shutil.copytree(bases[base], place / "folder"))
    change(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_a_sentence_at_once_and_nothing_is_changed(
    name: str, process: Watched, bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = attacked(name, bases, tmp_path)
    before = tree(tmp_path)
    told = process.zoo("sample", folder, "--output", tmp_path / "out.png")
    assert tree(tmp_path) == before
    assert_refused(told, *CASES[name].words)
    assert told.seconds < SECONDS
    assert told.grown < MEMORY


def assert_refused(told: Outcome, *words: str) -> None:
    """Exit code 2, and one line that a terminal can show, with these words and nothing of a file that it led to."""
    assert told.code == 2, told
    assert told.out == ""
    assert told.err.startswith("error: ")
    sentence = told.err.removeprefix("error: ").removesuffix("\n")
    assert sentence.isprintable(), sentence
    assert len(sentence) < 800
    assert SECRET not in sentence
    for word in words:
        assert word in sentence


@pytest.mark.parametrize("base", ["plain", "sharded"])
def test_what_is_not_damaged_is_drawn_from(base: str, process: Watched, bases: dict[str, Path], tmp_path: Path) -> None:
    told = process.zoo("sample", bases[base], "--output", tmp_path / "out.png")
    assert (told.code, told.err) == (0, "")
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("name", ["config a fifo", "sparse 8 GB of zeros", "layers absurd"])
def test_so_it_is_in_a_process_of_its_own(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    folder = attacked(name, bases, tmp_path)
    command = [sys.executable, "-m", "zoo_core.cli", "sample", folder, "--output", tmp_path / "out.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr, 0, 0), *CASES[name].words)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("command", [["card"], ["eval", "--data", "digits"], ["push", "{}", "a/b", "--dry-run"]])
@pytest.mark.parametrize(
    "name", ["config a fifo", "config linked to a secret", "config deep", "config with a key twice"]
)
def test_other_commands_refuse_it_too(
    command: list[str], name: str, process: Watched, bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = attacked(name, bases, tmp_path)
    words = [word.format(folder) for word in command]
    told = process.zoo(*words, *([] if "{}" in command else [folder]))
    assert_refused(told)
