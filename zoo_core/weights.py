"""A model's weights as safetensors files: refused unless they are exactly what the model needs, and owned."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_core.arguments import shown
from zoo_core.errors import CheckpointError, plain
from zoo_core.files import write_json
from zoo_core.host import one_line
from zoo_core.untrusted import named, parse_json, require_regular

FILE = re.compile(r"(?P<stem>model(\.[A-Za-z0-9_]+)?)(-[0-9]{5}-of-[0-9]{5})?\.safetensors")
INDEX = re.compile(r"(?P<stem>model(\.[A-Za-z0-9_]+)?)\.safetensors\.index\.json")

UNREADABLE = "no readable safetensors file"
LARGEST_HEADER = 8 * 2**20  # bytes: some 60,000 tensors

# What a checkpoint may hold, by the names in a safetensors header.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64,
}  # fmt: skip
# Older versions hand out tensors in the file's memory, which may be overwritten or cut while a model lives.
MAPPED = "backend" not in signature(safe_open).parameters
KINDS = dict.fromkeys((*FLOATS, *FLOATS.values()), "float") | {dtype: name for name, dtype in INTEGERS.items()}


def stem(variant: str | None) -> str:
    """What the files of a variant are called, up to shard number and suffix.

    Raises:
        CheckpointError: the variant cannot be part of a plain file name.
    """
    name = f"model.{variant}" if variant else "model"
    if not FILE.fullmatch(f"{name}.safetensors"):
        raise CheckpointError(f"variant: use letters, digits and '_', got {variant!r}")
    return name


def stem_of(file: str) -> str | None:
    """The stem in the name of a weight file or of an index; None for other files."""
    match = FILE.fullmatch(file) or INDEX.fullmatch(file)
    return match["stem"] if match else None


def floating(dtype: torch.dtype | str | None, argument: str) -> torch.dtype | None:
    """A floating-point dtype, by itself or by name.

    Raises:
        CheckpointError: it is something else.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in FLOATS.values():
        raise CheckpointError(f"{argument}: must be a floating-point dtype such as 'bfloat16', got {dtype!r}")
    return found


# --- writing --------------------------------------------------------------------------------------------


def write(
    model: nn.Module, folder: Path, *, storage: torch.dtype | None, stem: str, max_shard_size: int | str
) -> dict[str, str]:
    """Writes a model's tensors and returns the SHA-256 of each file by its name.

    Raises:
        CheckpointError: a tensor holds what is no number, or does not fit ``storage``.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = _named(model)
    # Without memory: what shares some would have to go into one file.
    sizes = {name: torch.empty(t.shape, dtype=_stored_as(t, storage), device="meta") for name, t in tensors.items()}
    pattern = f"{stem}{{suffix}}.safetensors"
    try:
        shards = split_torch_state_dict_into_shards(sizes, filename_pattern=pattern, max_shard_size=max_shard_size)
    except ValueError as error:
        raise CheckpointError(f"max_shard_size={max_shard_size!r}: {error}") from error
    ready = _filling_a_storage(tensors)
    for file, names in shards.filename_to_tensors.items():
        content = {
            name: _checked(repr(name), tensors[name], storage, copy=name not in ready, learnt=_is_learnt(tensors[name]))
            for name in names
        }
        save_file(content, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        write_json(folder / f"{stem}.safetensors.index.json", index)
    return {file: digest(folder / file) for file in sorted(shards.filename_to_tensors)}


def _named(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors; one that has several names (tied weights) by the first of them."""
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.dtype not in KINDS:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{type(model).__name__} has {name!r} of type {kind}, which no checkpoint holds")
    return {names[0]: state[names[0]] for names in _names(model)}


def _names(model: nn.Module) -> list[list[str]]:
    """The names of each of a model's tensors."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _filling_a_storage(tensors: Mapping[str, Tensor]) -> set[str]:
    """The tensors that can be written as they are: safetensors refuses what shares memory with another one."""
    storages = {name: tensor.untyped_storage() for name, tensor in tensors.items()}
    uses = Counter(storage.data_ptr() for storage in storages.values())
    return {
        name
        for name, storage in storages.items()
        if tensors[name].is_contiguous() and tensors[name].nbytes == storage.nbytes() and uses[storage.data_ptr()] == 1
    }


def _stored_as(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """``dtype``, if it is given, for floating-point numbers."""
    return dtype if dtype and tensor.is_floating_point() else tensor.dtype


def _checked(what: str, tensor: Tensor, dtype: torch.dtype | None, *, copy: bool, learnt: bool) -> Tensor:
    """Floating-point numbers in ``dtype``, none of them nan.

    Args:
        copy: also where nothing changes; contiguous.
        learnt: no infinity either, which is a number in buffers only: masks hold it.
    """
    _refuse_nan(what, tensor, learnt)
    dtype = _stored_as(tensor, dtype)
    result = tensor.detach().to(dtype=dtype, copy=copy, memory_format=torch.contiguous_format)
    if dtype != tensor.dtype and not torch.equal(result.isinf(), tensor.isinf()):
        raise CheckpointError(f"{what} holds numbers too large for {dtype}")
    return result


def _refuse_nan(what: str, tensor: Tensor, learnt: bool) -> None:
    if not (tensor.is_floating_point() and tensor.numel()):
        return
    low, high = (float(end) for end in tensor.detach().aminmax())  # both are nan if one number is
    if low != low:
        raise CheckpointError(f"{what} holds nan")
    if learnt and float("inf") in (-low, high):
        raise CheckpointError(f"{what} holds inf, which no parameter may be")


def digest(path: Path) -> str:
    """SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading --------------------------------------------------------------------------------------------


def verify(path: Path, sha256: str, remedy: str = "") -> None:
    """Refuses a file that is not the one that was written.

    Args:
        remedy: what the user may do then.

    Raises:
        CheckpointError: its hash differs, or it cannot be read.
    """
    with named(path):
        require_regular(path)
        found = digest(path)
    if found != sha256.lower():
        raise CheckpointError(f"{path}: damaged or exchanged: its SHA-256 is {found}, not {sha256}{remedy}")


def require_fit(model: nn.Module, files: Sequence[Path], remedy: str = "") -> None:
    """Refuses files whose headers tell of anything else than the model's tensors; reads no more than the headers.

    Args:
        remedy: what the user may do about a damaged file.

    Raises:
        CheckpointError: a file is no safetensors file, or does not fit.
    """
    _refuse_differences(_forms(_named(model)), _forms_in(files, remedy), f"{files[0]}: does not fit its config")


def load(model: nn.Module, files: Sequence[Path], *, device: torch.device, dtype: torch.dtype | None) -> None:
    """Gives a model that was built on the meta device the tensors in files that fit it, as copies in memory.

    Args:
        dtype: of floating-point tensors; default as the model has them.

    Raises:
        CheckpointError: a tensor holds what is no number.
    """
    wanted, tensors = _named(model), {}
    for path in files:
        for name, tensor in _tensors(path):
            kind = dtype if dtype and wanted[name].is_floating_point() else wanted[name].dtype
            learnt = _is_learnt(wanted[name])
            own = _checked(f"{path}: {name!r}", tensor, kind, copy=MAPPED, learnt=learnt).to(device)
            tensors[name] = _like(wanted[name], own)
    state = {name: tensors[names[0]] for names in _names(model) for name in names}
    model.load_state_dict(state, assign=True)


@contextmanager
def held_still(files: Sequence[Path]) -> Iterator[None]:
    """Refuses files that change inside: what was checked would not be what was loaded.

    Raises:
        CheckpointError: naming the first of them.
    """
    before = [_state(path) for path in files]
    yield
    for path, state in zip(files, before, strict=True):
        if _state(path) != state:
            raise CheckpointError(f"{path}: has changed while it was read; try again")


def _state(path: Path) -> tuple[int, ...]:
    with named(path):
        found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_learnt(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


class _Form(NamedTuple):
    """What must agree: floating-point numbers of any precision, or exactly this type; and the shape."""

    kind: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{plain(self.kind, 20)} {shown(self.shape)}"


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, _Form]:
    return {name: _Form(KINDS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


def _forms_in(files: Iterable[Path], remedy: str) -> dict[str, _Form]:
    """From the files' headers, so that nothing is read if anything is wrong."""
    forms: dict[str, _Form] = {}
    for path in files:
        with named(path, remedy):
            found = _forms_told(path)
        for name in found:
            if name in forms:
                raise CheckpointError(f"{path}: {shown(name)} is in another file too")
        forms |= found
    return forms


def _forms_told(path: Path) -> dict[str, _Form]:
    """What a header tells, once its length is known to be true; what it tells of bytes safetensors checks later.

    Raises:
        ValueError: it is no header. OSError: it cannot be read.
    """
    size = require_regular(path).st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(LARGEST_HEADER, size - 8):
            raise ValueError(f"{UNREADABLE}: a header of {length} bytes, in a file of {size}")
        try:
            header = {k: v for k, v in sorted(parse_json(file.read(length)).items()) if k != "__metadata__"}
            forms = {name: _form(told) for name, told in header.items()}
            _require_bytes(header, forms, size - 8 - length)
            return forms
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"{UNREADABLE}: header: {plain(one_line(error))}") from None


def _form(told: Any) -> _Form:
    kind, shape = told["dtype"], told["shape"]
    if not isinstance(kind, str) or not all(type(length) is int for length in shape):
        raise ValueError("a tensor's dtype or shape is none")
    return _Form(KINDS.get(kind, kind), tuple(shape))


def _require_bytes(header: Mapping[str, Any], forms: Mapping[str, _Form], size: int) -> None:
    """Refuses tensors of other lengths than their forms have, and bytes that are of no tensor: nobody hashes those."""
    for name, told in header.items():
        begin, end = told["data_offsets"]
        known = (FLOATS | INTEGERS).get(told["dtype"])
        if known and end - begin != known.itemsize * math.prod(forms[name].shape):
            raise ValueError(f"{shown(name)} has {end - begin} bytes, which is not its shape")
        size -= end - begin
    if size:
        raise ValueError(f"{size} bytes more than its tensors have")


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with _opened(path) as file:
        for name in sorted(file.keys()):
            yield name, file.get_tensor(name)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", **({} if MAPPED else {"backend": "pread"}))
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path}: {UNREADABLE}: {plain(one_line(error))}") from None


def _refuse_differences(wanted: Mapping[str, _Form], found: Mapping[str, _Form], complaint: str) -> None:
    """Refuses tensors that are missing, left over, or of another form; names at most five of them."""
    problems = [f"{shown(name)} is missing" for name in wanted if name not in found]
    problems += [f"{shown(name)} is not in the model" for name in found if name not in wanted]
    problems += [
        f"{shown(name)} is {found[name]}, not {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{complaint}: {'; '.join(problems[:5])}{more}")


# --- what can be loaded at all --------------------------------------------------------------------------


def refuse_unloadable(model: nn.Module, empty: nn.Module) -> None:
    """Refuses to write what could not be loaded.

    Args:
        empty: what the model's config makes.

    Raises:
        CheckpointError: the model has changed since it was built.
    """
    complaint = f"{type(model).__name__} is no longer what its config makes"
    _refuse_differences(_forms(_named(empty)), _forms(_named(model)), complaint)


def refuse_strays(model: nn.Module) -> None:
    """Refuses a model, built on the meta device, with tensors that no file fills: they would compute nothing.

    Raises:
        CheckpointError: naming the first of them.
    """
    for prefix, module in model.named_modules():
        for name, value in _outside_state(module).items():
            if any(tensor.is_meta for tensor in _held(value)):
                raise CheckpointError(
                    f"{type(module).__name__} keeps {'.'.join(filter(None, (prefix, name)))!r} out of its state_dict,"
                    " so it cannot be loaded; register it as a persistent buffer"
                )


def _outside_state(module: nn.Module) -> dict[str, Any]:
    own = {name: value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")}
    return own | {name: module._buffers[name] for name in module._non_persistent_buffers_set}


def _held(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, also in collections and distributions."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Distribution):
        yield from _held(vars(value))
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _held(item)
