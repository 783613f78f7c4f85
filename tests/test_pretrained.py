"""Checkpoints in folders and by registered name: what is saved comes back, and what is damaged is refused."""

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo_core import (
    CheckpointError,
    CheckpointSpec,
    ConfigError,
    GenerativeModel,
    ModelSpec,
    PluginError,
    PluginHost,
    Shape,
    UnknownComponent,
    ZooError,
    build,
    default_host,
    describe,
    hookimpl,
    weights,
)
from zoo_core.data import Preprocessing
from zoo_core.host import KNOWN_PLUGINS
from zoo_core.pretrained import FIELDS, checkpoint_folder, from_pretrained, save_pretrained

SHAPE = (1, 4, 4)
MLP = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [8]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [8]},
    "prior": {"type": "nets/gaussian_mixture", "components": 3},
}
NORMS = {**MLP, "encoder": {"type": "nets/resnet_encoder", "latents": 2, "channels": [4, 4]}}
PREPROCESSING = Preprocessing(image_size=(4, 4), channels=1, binarize="threshold")
PROVENANCE = {"recipe": {"name": "tiny"}, "seed": 7}
FILES = {"config.json", "model.safetensors"}


def make(config: Any = MLP, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build(config, "model", data_shape=SHAPE)
    model.preprocessing, model.provenance = PREPROCESSING, PROVENANCE
    return model


def samples(model: Any) -> Tensor:
    return model.sample(5, generator=torch.Generator().manual_seed(3))


def assert_same(a: Any, b: Any) -> None:
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name]), name


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    """One sentence of that kind that holds these words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 800
    for word in words:
        assert word in message


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint; not to be changed."""
    return save_pretrained(make(), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A good checkpoint to do anything with."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    config = config_of(folder)
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def seal(folder: Path) -> None:
    """Writes the hashes of the weights as they are now into the config, as who exchanges weights would."""
    edit(folder, lambda c: c.update(weights={n: weights.digest(folder / n) for n in c["weights"]}))


# --- models with particular tensors ---------------------------------------------------------------------


class Bare(GenerativeModel):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.linear = nn.Linear(3, 3)

    def draw(self, n: int) -> Tensor:
        return self.linear(torch.rand(n, 3))


class Tied(Bare):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.head = nn.Linear(3, 3)
        self.head.weight = self.linear.weight
        self.register_buffer("a", torch.ones(2))
        self.register_buffer("b", self.a)


class Frozen(Bare):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.linear.bias.requires_grad_(False)
        self.codes = nn.Parameter(torch.arange(3), requires_grad=False)


class Peculiar(Bare):
    """Tensors that are awkward to write: views, scalars, empty ones, integers, infinities."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.register_buffer("expanded", torch.ones(1, 3).expand(4, 3))
        self.register_buffer("transposed", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("slice", torch.arange(6.0)[2:4])
        self.register_buffer("part", self.linear.weight.detach()[:1])
        self.register_buffer("scalar", torch.tensor(2.0))
        self.register_buffer("empty", torch.ones(0, 3))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("precise", torch.ones(2, dtype=torch.float64))


class NonPersistent(Bare):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.linear.register_buffer("positions", torch.ones(2), persistent=False)


class Plain(Bare):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.table = torch.ones(2)


class Listed(Bare):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.tables = {"a": [torch.ones(2)]}


class InDistribution(Bare):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.noise = torch.distributions.Normal(torch.zeros(2), torch.ones(2), validate_args=False)


class Extra(Bare):
    def get_extra_state(self) -> Any:
        return {"step": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Complex(Bare):
    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64))


class Peeking(Bare):
    """Looks at a value while it is built, which the meta device does not have."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.scale = float(torch.ones(2).sum())


class Failing(Bare):
    def __init__(self, data_shape: Shape, how: str = "") -> None:
        super().__init__(data_shape)
        if how:
            raise {"key": KeyError, "system": SystemError, "depth": RecursionError}[how]("in\nthe constructor")


ODD = (Bare, Tied, Frozen, Peculiar, NonPersistent, Plain, Listed, InDistribution, Extra, Complex, Peeking, Failing)


class Models:
    @hookimpl
    def zoo_models(self) -> Iterator[ModelSpec]:
        for kind in ODD:
            yield ModelSpec(
                name=kind.__name__.lower(), target=f"{__name__}:{kind.__name__}", summary="For a test.",
                density="none", sampling="parallel", latent="none",
            )  # fmt: skip


@pytest.fixture
def host() -> PluginHost:
    """Installed plugins, and the models of this file as those of the plugin 'odd'."""
    host = PluginHost()
    host.register(Models(), "odd")
    return host


# --- what is saved comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MLP, NORMS], ids=["mlp", "resnet"])
def test_a_model_comes_back(tmp_path: Path, config: Any) -> None:
    model = make(config)
    assert save_pretrained(model, tmp_path / "model") == tmp_path / "model"
    assert names(tmp_path / "model") == FILES
    torch.manual_seed(1)
    loaded = from_pretrained(tmp_path / "model")
    assert_same(loaded, model)
    assert torch.equal(samples(loaded), samples(model.eval()))
    assert describe(loaded, data_shape=SHAPE) == describe(model, data_shape=SHAPE)
    assert not any(module.training for module in loaded.modules())
    assert loaded.preprocessing == PREPROCESSING
    assert loaded.provenance == PROVENANCE
    loaded.log_prob(torch.rand(2, *SHAPE)).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_a_loaded_model_is_saved_as_it_was(folder: Path, tmp_path: Path) -> None:
    save_pretrained(from_pretrained(folder), tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_saving_and_loading_draw_no_random_numbers(folder: Path, tmp_path: Path) -> None:
    model, before = make(), torch.get_rng_state()
    save_pretrained(model, tmp_path / "again")
    from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_config_tells_what_is_needed(folder: Path) -> None:
    config = config_of(folder)
    host = default_host()
    assert config["plugins"] == {name: host.plugins[name].version for name in ("nets", "vae")}
    assert config["zoo_core"]
    assert config["data_shape"] == list(SHAPE)
    assert config["weights"] == {"model.safetensors": weights.digest(folder / "model.safetensors")}


def test_results_are_those_of_these_weights(tmp_path: Path) -> None:
    save_pretrained(make(), tmp_path / "model", results={"values": {"elbo": 1.5}})
    assert json.loads((tmp_path / "model" / "results.json").read_text()) == {"values": {"elbo": 1.5}}
    save_pretrained(make(), tmp_path / "model")
    assert names(tmp_path / "model") == FILES


def test_gradients_are_wanted_where_the_constructor_says(tmp_path: Path, host: PluginHost) -> None:
    save_pretrained(Frozen(SHAPE), tmp_path / "model", host=host)
    wanted = {name: p.requires_grad for name, p in from_pretrained(tmp_path / "model", host=host).named_parameters()}
    assert wanted == {"codes": False, "linear.weight": True, "linear.bias": False}


@pytest.mark.parametrize("shard", ["5GB", 1])
def test_tied_weights_stay_tied(tmp_path: Path, host: PluginHost, shard: Any) -> None:
    model = Tied(SHAPE)
    save_pretrained(model, tmp_path / "model", host=host, max_shard_size=shard)
    loaded = from_pretrained(tmp_path / "model", host=host)
    assert_same(loaded, model)
    assert loaded.head.weight is loaded.linear.weight
    assert loaded.a is loaded.b
    assert len(list(loaded.parameters())) == 3


def test_awkward_tensors_come_back(tmp_path: Path, host: PluginHost) -> None:
    torch.manual_seed(0)
    model = Peculiar(SHAPE)
    save_pretrained(model, tmp_path / "model", host=host)
    loaded = from_pretrained(tmp_path / "model", host=host)
    assert_same(loaded, model)
    with torch.no_grad():
        loaded.linear.weight.zero_()
    assert loaded.part.any()  # a view is a tensor of its own once it is loaded


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16, "bfloat16", torch.float64])
def test_storage_is_a_matter_of_the_file(tmp_path: Path, host: PluginHost, storage: Any) -> None:
    model = Peculiar(SHAPE)
    save_pretrained(model, tmp_path / "model", storage=storage, host=host)
    dtype = getattr(torch, storage) if isinstance(storage, str) else storage
    stored = load_file(tmp_path / "model" / "model.safetensors")
    loaded = from_pretrained(tmp_path / "model", host=host).state_dict()
    for name, tensor in model.state_dict().items():
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        assert stored[name].dtype == kind
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.to(kind).to(tensor.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "float64"])
def test_dtype_is_that_of_all_real_tensors(folder: Path, host: PluginHost, dtype: Any, tmp_path: Path) -> None:
    save_pretrained(Peculiar(SHAPE), tmp_path / "peculiar", host=host)
    loaded = from_pretrained(tmp_path / "peculiar", host=host, dtype=dtype)
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    for name, tensor in Peculiar(SHAPE).state_dict().items():
        assert loaded.state_dict()[name].dtype == (kind if tensor.is_floating_point() else tensor.dtype)
    assert from_pretrained(folder, dtype=dtype).sample(2).isfinite().all()


@pytest.mark.parametrize("dtype", ["bfloat17", "nn", "int8", torch.int64, torch.float8_e4m3fn, 16])
def test_other_dtypes_are_refused(folder: Path, tmp_path: Path, dtype: Any) -> None:
    with refused(CheckpointError, "dtype", "'bfloat16'", repr(dtype)):
        from_pretrained(folder, dtype=dtype)
    with refused(CheckpointError, "storage", repr(dtype)):
        save_pretrained(make(), tmp_path / "other", storage=dtype)
    assert not (tmp_path / "other").exists()


def test_a_device_is_taken_or_refused(folder: Path) -> None:
    for device in ("cpu", torch.device("cpu")):
        assert {t.device.type for t in from_pretrained(folder, device=device).state_dict().values()} == {"cpu"}
    with refused(CheckpointError, "device 'nonsense' cannot be used"):
        from_pretrained(folder, device="nonsense")
    if not torch.cuda.is_available():
        with refused(CheckpointError, "device 'cuda' cannot be used"):
            from_pretrained(folder, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_goes_to_a_device_and_back(folder: Path, tmp_path: Path) -> None:
    there = from_pretrained(folder, device="cuda")
    assert {t.device.type for t in there.state_dict().values()} == {"cuda"}
    save_pretrained(there, tmp_path / "again")
    assert_same(from_pretrained(tmp_path / "again"), from_pretrained(folder))


# --- variants and shards --------------------------------------------------------------------------------


def test_a_variant_lies_beside_the_others_of_its_model(tmp_path: Path) -> None:
    model = make()
    save_pretrained(model, tmp_path / "model")
    save_pretrained(model, tmp_path / "model", variant="fp16", storage=torch.float16)
    save_pretrained(model, tmp_path / "model", variant="bf16", storage=torch.bfloat16)
    expected = FILES | {"model.fp16.safetensors", "model.bf16.safetensors"}
    assert names(tmp_path / "model") == expected
    assert_same(from_pretrained(tmp_path / "model"), model)
    halved = from_pretrained(tmp_path / "model", variant="fp16").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(halved[name], tensor.half().float())
    # The default is what variants are made from: with new weights there, they are of yesterday.
    save_pretrained(model, tmp_path / "model")
    assert names(tmp_path / "model") == FILES


def test_a_variant_beside_damaged_weights_does_not_mend_them(folder: Path) -> None:
    flip(WEIGHTS, -5)(folder)
    save_pretrained(make(), folder, variant="other")
    assert_same(from_pretrained(folder, variant="other"), make())
    with refused(CheckpointError, WEIGHTS, "SHA-256"):
        from_pretrained(folder)


def test_a_variant_of_another_model_stands_alone(folder: Path) -> None:
    save_pretrained(make(NORMS), folder, variant="other")
    assert names(folder) == {"config.json", "model.other.safetensors"}
    with refused(CheckpointError, "no weights called 'model.safetensors'", "'model.other.safetensors'"):
        from_pretrained(folder)
    assert_same(from_pretrained(folder, variant="other"), make(NORMS))


@pytest.mark.parametrize("variant", ["a-b", "../x", "x/y", ".", "fp16.safetensors"])
def test_a_variant_is_part_of_a_plain_name(folder: Path, variant: str) -> None:
    with refused(CheckpointError, "variant", repr(variant)):
        from_pretrained(folder, variant=variant)
    with refused(CheckpointError, "variant", repr(variant)):
        save_pretrained(make(), folder, variant=variant)
    assert_same(from_pretrained(folder), make())


def test_a_variant_that_is_not_there_is_refused(folder: Path) -> None:
    with refused(CheckpointError, "config.json", "'model.fp16.safetensors'", "listed: 'model.safetensors'"):
        from_pretrained(folder, variant="fp16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_every_shard_is_needed(tmp_path: Path, variant: str | None) -> None:
    model = make(NORMS)
    save_pretrained(model, tmp_path / "model", max_shard_size=1000, variant=variant)
    shards = sorted(config_of(tmp_path / "model")["weights"])
    assert len(shards) > 3
    index = json.loads(
        (tmp_path / "model" / shards[0])
        .with_name(f"model{'.fp16' if variant else ''}.safetensors.index.json")
        .read_text()
    )
    assert set(index["weight_map"].values()) == set(shards)
    assert_same(from_pretrained(tmp_path / "model", variant=variant), model)
    for shard in shards:
        broken = Path(shutil.copytree(tmp_path / "model", tmp_path / "broken"))
        (broken / shard).unlink()
        with refused(CheckpointError, f"no file {shard!r}"):
            from_pretrained(broken, variant=variant)
        edit(broken, lambda c, shard=shard: c["weights"].pop(shard))
        with refused(CheckpointError, "does not fit its config", "is missing"):
            from_pretrained(broken, variant=variant)
        shutil.rmtree(broken)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    edit(folder, lambda c: c["weights"].update({"model-00001-of-00002.safetensors": c["weights"]["model.safetensors"]}))
    with refused(CheckpointError, "model.safetensors", "is in another file too"):
        from_pretrained(folder)


@pytest.mark.parametrize("size", ["5 apples", "many"])
def test_a_shard_size_is_a_size(folder: Path, size: Any) -> None:
    with refused(CheckpointError, "max_shard_size", repr(size)):
        save_pretrained(make(), folder, max_shard_size=size)
    assert_same(from_pretrained(folder), make())


# --- over a folder that exists --------------------------------------------------------------------------


def test_saving_over_a_checkpoint_keeps_what_people_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_pretrained(make(NORMS), folder, max_shard_size=1000)
    people = {
        "README.md": "# By hand", "model_of_the_month.png": "picture", "models.md": "x", "model.py": "code",
        "tokenizer/vocabulary.json": "{}", ".git/HEAD": "ref", "examples/model.safetensors": "another",
    }  # fmt: skip
    for name, text in people.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "link").symlink_to("README.md")
    save_pretrained(make(), folder)
    assert names(folder) == FILES | {*people, "link"}
    assert all((folder / name).read_text() == text for name, text in people.items())
    assert (folder / "link").is_symlink()
    assert_same(from_pretrained(folder), make())


def test_a_card_may_be_there_first(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("# By hand")
    save_pretrained(make(), tmp_path / "model")
    assert names(tmp_path / "model") == FILES | {"README.md"}


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home" / "photos").mkdir(parents=True)
    with refused(CheckpointError, str(tmp_path / "home"), "no checkpoint"):
        save_pretrained(make(), tmp_path / "home")
    assert (tmp_path / "home" / "photos").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    with refused(CheckpointError, str(tmp_path / "model.safetensors"), "it is a file"):
        save_pretrained(make(), tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_text() == "mine"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_are_as_readable_as_the_umask_allows(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_pretrained(make(), tmp_path / "model", max_shard_size=1000)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys(modes, mode)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_an_error_while_saving_leaves_the_old(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    write = weights.write

    def fail(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        raise error

    monkeypatch.setattr(weights, "write", fail)
    if isinstance(error, OSError):
        with refused(CheckpointError, f"cannot write {folder}: No space left on device"):
            save_pretrained(make(seed=1), folder)
    else:
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(make(seed=1), folder)
    assert names(folder.parent) == {f"model/{name}" for name in FILES}
    assert_same(from_pretrained(folder), make())


KILLED = """
import sys, time
from zoo_core import weights
from zoo_core.pretrained import from_pretrained, save_pretrained
write = weights.write
def stop(*arguments, **options):
    write(*arguments, **options)
    print("inside", flush=True)
    time.sleep(60)
weights.write = stop
model = from_pretrained(sys.argv[1])
model.decoder.body[1].weight.data.zero_()
save_pretrained(model, sys.argv[1])
"""


def test_a_kill_while_saving_leaves_the_old(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert names(folder) == FILES
    assert_same(from_pretrained(folder), make())


# --- what cannot be loaded is not saved -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NonPersistent, ("Linear keeps 'linear.positions' out of its state_dict", "persistent buffer")),
        (Plain, ("Plain keeps 'table' out of its state_dict",)),
        (Listed, ("Listed keeps 'tables' out of its state_dict",)),
        (InDistribution, ("InDistribution keeps 'noise' out of its state_dict",)),
        (Extra, ("Extra has '_extra_state' of type dict",)),
        (Complex, ("Complex has 'phase' of type torch.complex64",)),
        (Peeking, ("Peeking: model: cannot be built",)),
    ],
)  # fmt: skip
def test_a_model_that_no_file_can_hold_is_refused(
    tmp_path: Path, host: PluginHost, kind: type[Bare], words: tuple[str, ...]
) -> None:
    with refused(CheckpointError, *words):
        save_pretrained(kind(SHAPE), tmp_path / "model", host=host)
    assert list(tmp_path.iterdir()) == []
    # Nor is it loaded, should someone have written it all the same.
    save_pretrained(Bare(SHAPE), tmp_path / "model", host=host)
    edit(tmp_path / "model", lambda c: c["model"].update(type=f"odd/{kind.__name__.lower()}"))
    with refused(CheckpointError, *(word.replace("Peeking:", "config.json:") for word in words)):
        from_pretrained(tmp_path / "model", host=host)


def test_a_model_that_outgrew_its_config_is_refused(tmp_path: Path) -> None:
    model = make()
    model.decoder.body[1] = nn.Linear(2, 9)
    model.encoder.extra = nn.Linear(1, 1)
    with refused(
        CheckpointError, "VAE is no longer what its config makes", "'encoder.extra.weight' is not in the model",
        "'decoder.body.1.weight' is float (9, 2), not float (8, 2)",
    ):  # fmt: skip
        save_pretrained(model, tmp_path / "model")


def test_numbers_that_are_none_are_refused(tmp_path: Path, host: PluginHost) -> None:
    model = make()
    model.decoder.body[1].weight.data[0, 0] = 1e6
    with refused(CheckpointError, "'decoder.body.1.weight' holds numbers too large for torch.float16"):
        save_pretrained(model, tmp_path / "model", storage=torch.float16)
    save_pretrained(model, tmp_path / "model")
    with refused(CheckpointError, "'decoder.body.1.weight' holds numbers too large for torch.float16"):
        from_pretrained(tmp_path / "model", dtype="float16")
    model.decoder.body[1].weight.data[0, 0] = torch.nan
    with refused(CheckpointError, "'decoder.body.1.weight' holds nan"):
        save_pretrained(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("number", [torch.inf, -torch.inf])
def test_infinity_is_a_number_in_buffers_only(tmp_path: Path, host: PluginHost, number: float) -> None:
    model = Peculiar(SHAPE)
    model.mask.fill_(number)
    save_pretrained(model, tmp_path / "model", host=host)
    assert_same(from_pretrained(tmp_path / "model", host=host), model)
    model.linear.bias.data[1] = number
    with refused(CheckpointError, "'linear.bias' holds inf, which no parameter may be"):
        save_pretrained(model, tmp_path / "other", host=host)
    assert not (tmp_path / "other").exists()


def test_a_model_of_no_plugin_is_refused(tmp_path: Path) -> None:
    with refused(ConfigError, "no plugin offers Bare"):
        save_pretrained(Bare(SHAPE), tmp_path / "model")


@pytest.mark.parametrize("field", ["results", "provenance"])
def test_what_is_not_json_is_refused(folder: Path, field: str) -> None:
    model, value = make(), {"x": torch.ones(1)}
    if field == "provenance":
        model.provenance = value
    with refused(CheckpointError, "as JSON", "Tensor"):
        save_pretrained(model, folder, results=value if field == "results" else None)
    assert_same(from_pretrained(folder), make())


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nope", "../nope", "/nope/x", "~/nope", "~nobody/x", Path("nope"), Path("a/b")])
def test_a_folder_that_is_missing_is_not_asked_for_elsewhere(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", pytest.fail)
    with refused(CheckpointError, "no such folder", "nope" if "nope" in str(name) else ""):
        from_pretrained(name)


def test_a_folder_is_found_by_any_form_of_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in (folder, str(folder), "model", "./model", "~/model", "model/", Path("model"), "../" + Path.cwd().name):
        assert_same(from_pretrained(name, subfolder="model" if str(name).startswith("..") else ""), make())


def test_a_folder_has_no_revisions(folder: Path) -> None:
    with refused(CheckpointError, "is a folder", "'v1'"):
        from_pretrained(folder, revision="v1")


def test_a_subfolder_lies_inside(folder: Path, saved: Path) -> None:
    assert_same(from_pretrained(folder.parent, subfolder="model"), make())
    with refused(CheckpointError, "no file 'config.json'", str(folder / "nope")):
        from_pretrained(folder, subfolder="nope")


@pytest.mark.parametrize("subfolder", ["..", "../model", "a/../b", "/model", "model/", "a//b", ".", "a\\b", ".git"])
def test_a_subfolder_does_not_lead_out(folder: Path, subfolder: str) -> None:
    with refused(CheckpointError, "subfolder", repr(subfolder), "plain names"):
        from_pretrained(folder.parent / "model", subfolder=subfolder)


def test_another_class_than_expected_is_refused(folder: Path) -> None:
    kind = type(make())
    assert isinstance(from_pretrained(folder, expected=kind), kind)
    with refused(CheckpointError, str(folder / "config.json"), "holds a VAE, not a Bare"):
        from_pretrained(folder, expected=Bare)


def test_a_hash_can_be_given(folder: Path) -> None:
    sha256 = weights.digest(folder / "model.safetensors")
    assert_same(from_pretrained(folder, sha256=sha256), make())
    assert_same(from_pretrained(folder, sha256=sha256.upper()), make())
    with refused(CheckpointError, "model.safetensors", "SHA-256", f"not {'0' * 64}"):
        from_pretrained(folder, sha256="0" * 64)
    save_pretrained(make(), folder, max_shard_size=100)
    with refused(CheckpointError, "sha256 is given, but there are"):
        from_pretrained(folder, sha256=sha256)


def test_a_limit_can_be_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    assert_same(from_pretrained(folder, max_parameters=numbers), model)
    with refused(CheckpointError, str(folder / CONFIG), f"more than {numbers - 1} parameters", "max_parameters"):
        from_pretrained(folder, max_parameters=numbers - 1)
    monkeypatch.setenv("ZOO_MAX_PARAMETERS", str(numbers - 1))
    with refused(CheckpointError, str(folder / CONFIG), f"more than {numbers - 1} parameters"):
        from_pretrained(folder)
    assert_same(from_pretrained(folder, max_parameters=numbers), model)
    with refused(ConfigError, "max_parameters: must be a number of at least 1", "'many'"):
        from_pretrained(folder, max_parameters="many")  # type: ignore[arg-type]


# --- files that change, and links -----------------------------------------------------------------------


@pytest.mark.parametrize("at", ["require_fit", "verify", "load"])
def test_weights_that_are_exchanged_meanwhile_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """By others of the same size and the same times, as far as times can be set."""
    save_pretrained(make(seed=1), tmp_path / "other")
    step = getattr(weights, at)

    def exchange(*arguments: Any, **options: Any) -> None:
        step(*arguments, **options)
        about = (folder / WEIGHTS).stat()
        (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
        os.utime(folder / WEIGHTS, ns=(about.st_atime_ns, about.st_mtime_ns))

    monkeypatch.setattr(weights, at, exchange)
    with refused(CheckpointError, str(folder / WEIGHTS), "SHA-256" if at == "require_fit" else "changed while"):
        from_pretrained(folder)


def test_a_link_may_lead_within_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "inner").mkdir()
    (folder / WEIGHTS).rename(folder / "inner" / WEIGHTS)
    (folder / WEIGHTS).symlink_to(f"inner/{WEIGHTS}")
    (tmp_path / "link").symlink_to(folder)
    for name in (folder, tmp_path / "link", tmp_path / "link" / ".." / "model"):
        assert_same(from_pretrained(name), make())
    with refused(CheckpointError, "config.json", "leads out of its folder"):
        (folder / "out").symlink_to(shutil.copytree(folder, tmp_path / "elsewhere", symlinks=True))
        from_pretrained(folder, subfolder="out")


# --- plugins that are missing ---------------------------------------------------------------------------


def test_a_missing_plugin_is_named(folder: Path) -> None:
    edit(folder, lambda c: c["model"].update(type="stranger/vae"))
    with refused(UnknownComponent, str(folder / "config.json"), "'stranger/vae'", "no plugin 'stranger'"):
        from_pretrained(folder)
    with pytest.raises(UnknownComponent) as caught:
        from_pretrained(folder)
    assert "pip" not in str(caught.value)


@pytest.mark.parametrize("plugin", KNOWN_PLUGINS)
def test_for_our_own_plugins_it_says_how_to_install_them(folder: Path, plugin: str) -> None:
    edit(folder, lambda c: c["model"].update(type=f"{plugin}/x"))
    with refused(UnknownComponent, f"needs the plugin {plugin!r}", f"pip install zoo-{plugin}"):
        from_pretrained(folder, host=PluginHost(discover=False))


def test_a_plugin_that_is_off_is_not_called_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DISABLE", "vae")
    with refused(PluginError, str(folder / "config.json"), "'vae/vae'", "disabled"):
        from_pretrained(folder, host=PluginHost())


def test_a_component_that_cannot_be_imported_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zoo_vae.vae", None)
    with refused(PluginError, str(folder / "config.json"), "'vae/vae'", "zoo_vae.vae"):
        from_pretrained(folder, host=PluginHost())


# --- damage ---------------------------------------------------------------------------------------------


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def unlink(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def flip(name: str, at: int, bit: int = 1) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at] ^= bit
        (folder / name).write_bytes(content)

    return change


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, size)


def configured(**fields: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder, lambda config: config.update(fields))


def without(field: str) -> Callable[[Path], object]:
    return lambda folder: edit(folder, lambda config: config.pop(field))


def model_with(path: str, value: Any) -> Callable[[Path], object]:
    def change(config: Any) -> None:
        *parents, last = ("model." + path).split(".")
        for name in parents:
            config = config[name]
        config[last] = value

    return lambda folder: edit(folder, change)


def sealed(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        change(folder)
        seal(folder)

    return both


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return sealed(both)


class Executed:
    def __reduce__(self) -> Any:
        return os.abort, ()


CONFIG, WEIGHTS = "config.json", "model.safetensors"
BIAS = "decoder.body.1.bias"

DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a part of another kind": (
        model_with("prior", "vae/elbo"),
        (CONFIG, "model.prior: 'vae/elbo' is a loss, not a prior"),
    ),
    "config missing": (unlink(CONFIG), ("no file 'config.json'",)),
    "config empty": (put(CONFIG, b""), (CONFIG, "no valid JSON")),
    "config cut": (cut(CONFIG, 100), (CONFIG, "no valid JSON")),
    "config binary": (put(CONFIG, bytes(range(256))), (CONFIG, "no valid JSON")),
    "config too deep": (put(CONFIG, b"[" * 100_000), (CONFIG, "no valid JSON")),
    "config a list": (put(CONFIG, b"[]"), (CONFIG, "the field 'format'")),
    "config of another library": (put(CONFIG, b'{"model_type": "bert"}'), (CONFIG, "no zoo checkpoint")),
    "config huge": (put(CONFIG, b" " * (5 * 2**20)), (CONFIG, "larger than")),
    "config's numbers huge": (put(CONFIG, b"1" * 5000), (CONFIG, "no valid JSON")),
    **{f"no {field}": (without(field), (CONFIG, repr(field))) for field in FIELDS},
    **{f"{field} wrong": (configured(**{field: "x"}), (CONFIG, repr(field))) for field in FIELDS},
    "format newer": (configured(format=2), (CONFIG, "format 2", "upgrade zoo-core")),
    "format newer and other": (put(CONFIG, b'{"format": 3}'), (CONFIG, "format 3", "upgrade zoo-core")),
    "preprocessing unknown": (configured(preprocessing={"crop": 3}), (CONFIG, "preprocessing.crop")),
    "preprocessing wrong": (configured(preprocessing={"image_size": "big"}), (CONFIG, "image_size")),
    "shape of words": (configured(data_shape=["a"]), (CONFIG, "data_shape")),
    "shape negative": (configured(data_shape=[1, -4, 4]), (f"{CONFIG}: data_shape[1]: must be a positive",)),
    "shape astronomic": (configured(data_shape=[1, 2**40, 2**40]), (CONFIG, "data_shape: must be")),
    "shape empty": (configured(data_shape=[]), (CONFIG,)),
    "no type": (configured(model={}), (CONFIG, "model: must be a mapping with a 'type'")),
    "a wrong argument": (model_with("encoder.latentz", 2), (f"{CONFIG}: model.encoder.latentz", "mean 'latents'")),
    "a wrong value": (model_with("encoder.hidden", [8, -3]), (f"{CONFIG}: model.encoder.hidden[1]: must be a",)),
    "weights missing": (unlink(WEIGHTS), (f"no file {WEIGHTS!r}",)),
    "weights empty": (put(WEIGHTS, b""), (WEIGHTS, "no readable safetensors")),
    "weights cut": (cut(WEIGHTS, 1000), (WEIGHTS, "no readable safetensors")),
    "weights with a flipped bit": (flip(WEIGHTS, -5), (WEIGHTS, "SHA-256")),
    "weights with a flipped bit in the header": (flip(WEIGHTS, 100), (WEIGHTS,)),
    "weights garbage": (sealed(put(WEIGHTS, b"x" * 1000)), (WEIGHTS, "no readable safetensors")),
    "weights nothing": (sealed(put(WEIGHTS, b"")), (WEIGHTS, "no readable safetensors")),
    "weights cut on purpose": (sealed(cut(WEIGHTS, 1000)), (WEIGHTS, "no readable safetensors")),
    "weights with a huge header": (
        sealed(put(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}")), (WEIGHTS, "no readable safetensors")),
    "weights a pickle": (sealed(put(WEIGHTS, pickle.dumps(Executed()))), (WEIGHTS, "no readable safetensors")),
    "weights by torch.save": (
        sealed(lambda folder: torch.save(Executed(), folder / WEIGHTS)), (WEIGHTS, "no readable safetensors")),
    "a tensor missing": (tensors(lambda s: s.pop(BIAS)), (WEIGHTS, f"{BIAS!r} is missing")),
    "a tensor too many": (tensors(lambda s: s.update(x=torch.ones(1))), (WEIGHTS, "'x' is not in the model")),
    "a tensor of another shape": (
        tensors(lambda s: s.update({BIAS: torch.ones(9)})), (WEIGHTS, f"{BIAS!r} is float (9,), not float (8,)")),
    "a tensor of another kind": (
        tensors(lambda s: s.update({BIAS: torch.ones(8).long()})), (WEIGHTS, f"{BIAS!r} is I64 (8,), not float (8,)")),
    "a tensor of eight bits": (
        tensors(lambda s: s.update({BIAS: torch.ones(8).to(torch.float8_e4m3fn)})), (WEIGHTS, f"{BIAS!r} is F8_E4M3")),
    "a tensor with nan": (tensors(lambda s: s[BIAS].fill_(torch.nan)), (WEIGHTS, f"{BIAS!r} holds nan")),
    "nothing fits": (
        tensors(lambda s: s.update({str(i): torch.ones(1) for i in range(7)})),
        ("'4' is not in the model, and 2 more",)),
    "weights not listed": (configured(weights={}), (CONFIG, "no weights called 'model.safetensors'", "listed: none")),
    **{
        f"weights called {name}": (
            configured(weights={name: "0" * 64}),
            (CONFIG, f"weights: must be safetensors files and their SHA-256, got {name!r}"),
        )
        for name in ("../model.safetensors", "/etc/passwd", "a/model.safetensors", "model.safetensors/../x", "..",
                     "pytorch_model.bin", "model.pt", "", "model.safetensors\n", "C:model.safetensors")
    },
    **{
        f"weights' hash {sha256!r}": (configured(weights={WEIGHTS: sha256}), (CONFIG, f"got {WEIGHTS!r}: "))
        for sha256 in (None, "", 5, [], "abc", "g" * 64)
    },
}  # fmt: skip


ABSENT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a part not there": (model_with("type", "vae/vea"), (CONFIG, "model: no model 'vae/vea'", "did you mean: vae/vae")),
    "no model": (model_with("type", "nets/dirac"), (CONFIG, "model: no model 'nets/dirac'")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_sentence_with_file_and_field(folder: Path, damage: str) -> None:
    change, words = DAMAGE[damage]
    change(folder)
    with refused(CheckpointError, str(folder), *words):
        from_pretrained(folder)


@pytest.mark.parametrize("part", ABSENT)
def test_a_part_that_is_not_there_is_told_with_file_and_field(folder: Path, part: str) -> None:
    change, words = ABSENT[part]
    change(folder)
    with refused(UnknownComponent, str(folder), *words):
        from_pretrained(folder)


@pytest.mark.parametrize("how", ["key", "system", "depth"])
def test_a_constructor_may_fail_in_its_own_way(tmp_path: Path, host: PluginHost, how: str) -> None:
    save_pretrained(Failing(SHAPE), tmp_path / "model", host=host)
    edit(tmp_path / "model", lambda config: config["model"].update(how=how))
    with refused(CheckpointError, "config.json: model: cannot be built", "in", "the constructor"):
        from_pretrained(tmp_path / "model", host=host)


def attempt(folder: Path) -> Any:
    """The model, or what the zoo says against it; no other exception passes."""
    try:
        return from_pretrained(folder)
    except ZooError as error:
        return str(error)


def assert_refused_or_whole(folder: Path) -> None:
    outcome = attempt(folder)
    if isinstance(outcome, str):
        assert outcome.isprintable()
        assert len(outcome) < 1000
    else:  # what was changed did not concern the model
        assert_same(outcome, make())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is anything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_random_damage_to_bytes_is_refused(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True))
    path = folder / data.draw(st.sampled_from(sorted(FILES)))
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    assert_refused_or_whole(folder)


@FUZZ
@given(data=st.data())
def test_random_damage_to_weights_by_who_knows_of_the_hash_is_refused(
    saved: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True))
    content = bytearray((folder / WEIGHTS).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for at in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        content[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789"[]{}:,FIU'))
    (folder / WEIGHTS).write_bytes(content)
    seal(folder)
    outcome = attempt(folder)
    assert isinstance(outcome, GenerativeModel) or outcome.isprintable()


def changed(value: Any, data: st.DataObject) -> Any:
    """A JSON value with another one, or none, somewhere in it."""
    *parents, last = data.draw(st.sampled_from(sorted(paths(value), key=str)))
    place = value
    for key in parents:
        place = place[key]
    if data.draw(st.booleans()):
        del place[last]
    else:
        place[last] = data.draw(JSON)
    return value


@FUZZ
@given(data=st.data())
def test_random_headers_by_who_knows_of_the_hash_are_refused(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True))
    content = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(changed(json.loads(content[8:end]), data)).encode()
    told = data.draw(st.just(len(header)) | st.integers(0, 2**64 - 1))
    (folder / WEIGHTS).write_bytes(told.to_bytes(8, "little") + header + content[end:])
    seal(folder)
    assert_refused_or_whole(folder)


@FUZZ
@given(data=st.data())
def test_random_damage_to_the_text_of_a_config_is_refused(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True))
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[-+.\w]+|\S|\s+', (folder / CONFIG).read_text())
    others = st.sampled_from([*tokens, "NaN", "-Infinity", "1e999", "[[[[", "}", "\ufeff", '"\\ud800"', "9" * 5000])
    for at in data.draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=3)):
        tokens[at] = data.draw(others) if data.draw(st.booleans()) else tokens[at] + tokens[at]
    (folder / CONFIG).write_text("".join(tokens))
    assert_refused_or_whole(folder)


@FUZZ
@given(data=st.data())
def test_random_damage_to_fields_is_refused(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True))
    config = changed(config_of(folder), data)
    (folder / CONFIG).write_text(json.dumps(config))
    assert_refused_or_whole(folder)


# --- registered names -----------------------------------------------------------------------------------


class Checkpoints:
    def __init__(self, *specs: CheckpointSpec) -> None:
        self.specs = specs

    @hookimpl
    def zoo_checkpoints(self) -> Iterator[CheckpointSpec]:
        yield from self.specs


def spec(name: str, target: str = "zoo_bundle:checkpoints", **fields: str) -> CheckpointSpec:
    return CheckpointSpec(name=name, target=target, hub="nobody/nothing", summary="For a test.", **fields)


@pytest.fixture
def bundle(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of a plugin that brings a checkpoint along."""
    package = tmp_path / "site" / "zoo_bundle"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copytree(saved, package / "checkpoints" / "small")
    monkeypatch.syspath_prepend(package.parent)
    yield package
    sys.modules.pop("zoo_bundle", None)


@pytest.fixture
def bundled(bundle: Path) -> PluginHost:
    host = PluginHost()
    host.register(Checkpoints(spec("small"), spec("large")), "bundle")
    return host


@pytest.mark.parametrize("name", ["small", "bundle/small"])
def test_a_bundled_checkpoint_needs_no_network(bundled: PluginHost, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", pytest.fail)
    assert_same(from_pretrained(name, host=bundled), make())


def test_where_a_checkpoint_lies(bundled: PluginHost, bundle: Path) -> None:
    folders = {r.spec.name: checkpoint_folder(r) for r in bundled.registrations("checkpoint") if r.plugin == "bundle"}
    assert folders == {"small": bundle / "checkpoints" / "small", "large": None}


def test_an_unknown_name_gets_suggestions(bundle: Path) -> None:
    host = PluginHost(discover=False)
    for name in ("zzz", "a" * 5000, "a\0b", "ü"):
        with refused(UnknownComponent, "no checkpoint", "there are: none"):
            from_pretrained(name, host=host)
    host.register(Checkpoints(spec("small"), spec("large")), "bundle")
    with refused(UnknownComponent, "no checkpoint 'smal'", "did you mean: small?", "organisation/name"):
        from_pretrained("smal", host=host)
    with refused(UnknownComponent, "no checkpoint 'zzz'", "there are: large, small"):
        from_pretrained("zzz", host=host)


def test_a_name_that_two_plugins_use_needs_its_plugin(bundled: PluginHost) -> None:
    bundled.register(Checkpoints(spec("small")), "other")
    with refused(UnknownComponent, "'small' names more than one checkpoint", "bundle/small", "other/small"):
        from_pretrained("small", host=bundled)
    assert_same(from_pretrained("other/small", host=bundled), make())


def test_a_package_that_is_not_there_is_a_fault_of_its_plugin(bundle: Path) -> None:
    host = PluginHost()
    host.register(Checkpoints(spec("small", target="zoo_gone:checkpoints")), "bundle")
    with refused(PluginError, "checkpoint 'bundle/small'", "'zoo_gone'"):
        from_pretrained("small", host=host)


def test_a_module_that_loading_imports_keeps_its_tensors(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "model.py").write_text(
        "import torch\n"
        f"from {__name__} import Bare\n"
        "TABLE = torch.ones(3)\n"
        "class Late(Bare):\n"
        "    def draw(self, n):\n"
        "        return TABLE.expand(n, 3)\n"
    )

    class Late:
        @hookimpl
        def zoo_models(self) -> Iterator[ModelSpec]:
            yield ModelSpec(
                name="late", target="zoo_bundle.model:Late", summary="Imported while it is loaded.",
                density="none", sampling="parallel", latent="none",
            )  # fmt: skip

    host = PluginHost()
    host.register(Models(), "odd")
    host.register(Late(), "late")
    save_pretrained(Bare(SHAPE), tmp_path / "model", host=host)
    edit(tmp_path / "model", lambda c: c["model"].update(type="late/late"))
    assert "zoo_bundle.model" not in sys.modules
    try:
        assert torch.equal(from_pretrained(tmp_path / "model", host=host).sample(2), torch.ones(2, 3))
    finally:
        sys.modules.pop("zoo_bundle.model", None)


# --- another process ------------------------------------------------------------------------------------

STORY = """
import json, os, sys
import torch
from zoo_core import CheckpointSpec, PluginHost, hookimpl

class Checkpoints:
    @hookimpl
    def zoo_checkpoints(self):
        yield CheckpointSpec(name="small", target="zoo_bundle:checkpoints", hub="nobody/nothing", summary="A test.")

def told(model):
    samples = model.sample(5, generator=torch.Generator().manual_seed(3))
    return {
        "weights": {name: t.numpy().tobytes().hex() for name, t in model.state_dict().items()},
        "samples": samples.numpy().tobytes().hex(),
    }

torch.manual_seed(12345)
host = PluginHost()
host.register(Checkpoints(), "bundle")
from zoo_core.pretrained import from_pretrained
model = from_pretrained("small", host=host)
heavy = ["huggingface_hub", "datasets", "accelerate", "transformers", "sklearn", "matplotlib", "pyarrow", "PIL"]
imported = [name for name in heavy if name in sys.modules]

folder = sys.argv[1]
owner = from_pretrained(folder)
first = told(owner)
file = os.path.join(folder, "model.safetensors")
size = os.path.getsize(file)
with open(file, "r+b") as weights:
    weights.write(bytes(size))
overwritten = told(owner)
os.truncate(file, 0)
truncated = told(owner)
print(json.dumps({
    "imported": imported, "bundled": told(model), "first": first, "overwritten": overwritten, "truncated": truncated
}))
"""


@pytest.fixture(scope="module")
def elsewhere(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What another process, with another seed, has to tell of the checkpoint."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "zoo_bundle").mkdir()
    (place / "zoo_bundle" / "__init__.py").touch()
    for copy in (place / "zoo_bundle" / "checkpoints" / "small", place / "model"):
        shutil.copytree(saved, copy)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    command = [sys.executable, "-c", STORY, str(place / "model")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_another_process_has_the_same_model(elsewhere: Any) -> None:
    model = make().eval()
    expected = {name: tensor.numpy().tobytes().hex() for name, tensor in model.state_dict().items()}
    assert elsewhere["bundled"] == elsewhere["first"]
    assert elsewhere["first"] == {"weights": expected, "samples": samples(model).numpy().tobytes().hex()}


def test_a_model_owns_its_weights(elsewhere: Any) -> None:
    assert elsewhere["overwritten"] == elsewhere["truncated"] == elsewhere["first"]


def test_a_bundled_checkpoint_imports_nothing_heavy(elsewhere: Any) -> None:
    assert elsewhere["imported"] == []
