"""Dumped attention: .npz, .npy and .safetensors files, and folders of them.

``attention`` is [L, L], [heads, L, L] or [layers, heads, L, L]; with five axes, [inputs, layers, heads, L, L], a file
holds many inputs. In .npz and .safetensors it may be joined by ``tokens`` (strings; in .safetensors a JSON list in
the metadata), ``segments``, ``valid_length`` or ``mask`` and ``causal``, each with a leading inputs axis where the
attention has one (``causal`` may do without). Nothing is ever unpickled.
"""

import json
import operator
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from classifier.errors import SourceError
from classifier.label_input import FailedInput, LabelInput

_DECLARED = ("segments", "valid_length", "mask", "causal")
_MANY = 5  # axes of a file of many inputs
# What numpy, zipfile and safetensors raise on files that are damaged or were never theirs.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
)


@dataclass(frozen=True)
class DumpFile:
    """A file and the id of its inputs: its path in the folder given, or its name."""

    path: Path
    input_id: str


@dataclass(frozen=True)
class _Stored:
    """An opened file; ``attention`` is read only where it is sliced."""

    shape: tuple[int, ...]
    attention: Any
    declared: Mapping[str, NDArray[Any]]
    data_type: str | None = None


def dump_files(paths: Iterable[Path]) -> list[DumpFile]:
    """The dumps among ``paths``: files as given, folders searched in depth and sorted.

    Raises:
        SourceError: a path is not there, is a file of another kind, or a folder without dumps.
    """
    files: dict[Path, str] = {}
    for path in paths:
        if not path.exists():
            raise SourceError(f"dump {path} does not exist")
        found = sorted(p for p in path.rglob("*") if p.suffix in _READERS and p.is_file()) if path.is_dir() else [path]
        if not found or found[0].suffix not in _READERS:
            kind = "folder without" if path.is_dir() else f"file {path.suffix or 'without suffix'}, expected one of"
            raise SourceError(f"dump {path} is a {kind} {', '.join(_READERS)}")
        for one in found:
            files.setdefault(one, one.relative_to(path).as_posix() if path.is_dir() else one.name)
    unique = len(set(files.values())) == len(files)
    return [DumpFile(path, name if unique else path.as_posix()) for path, name in files.items()]


def read_dumps(files: Iterable[DumpFile]) -> Iterator[LabelInput | FailedInput]:
    """Yields the inputs of all files, one at a time; a file that cannot be read is a failed input."""
    for file in files:
        try:
            yield from _inputs(file)
        except SourceError as error:
            yield FailedInput(file.input_id, error)
        except _UNREADABLE as error:
            reason = str(error) or type(error).__name__
            yield FailedInput(file.input_id, SourceError(f"{file.path} cannot be read as {file.path.suffix}: {reason}"))


def _inputs(file: DumpFile) -> Iterator[LabelInput]:
    with _READERS[file.path.suffix](file.path) as stored:
        if len(stored.shape) != _MANY:
            yield LabelInput(
                file.input_id, stored.attention[:], data_type=stored.data_type, **_declarations(stored.declared)
            )
            return
        count = stored.shape[0]
        for name, values in stored.declared.items():
            if values.shape[:1] not in ((count,), ()) or (values.ndim == 0 and name != "causal"):
                raise SourceError(f"{file.path}: {name} has shape {list(values.shape)}, expected {count} inputs first")
        for n in range(count):
            declared = {name: values[n] if values.ndim else values for name, values in stored.declared.items()}
            yield LabelInput(
                f"{file.input_id}[{n}]",
                stored.attention[n],
                data_type=stored.data_type,
                progress=1 / count,
                **_declarations(declared),
            )


def _declarations(declared: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The keywords of ``LabelInput``, by name: Python's own integer, truth and strings."""
    convert: dict[str, Callable[[Any], Any]] = {
        "tokens": _strings,
        "valid_length": lambda values: operator.index(values.item()),
        "causal": lambda values: bool(values.item()),
    }
    return {name: convert.get(name, np.asarray)(np.asarray(values)) for name, values in declared.items()}


def _strings(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind != "U":
        raise SourceError(f"tokens has dtype {values.dtype}, expected strings (numpy <U)")
    return [str(value) for value in values]


def _required(names: Iterable[str], path: Path) -> None:
    held = sorted(names)
    if "attention" not in held:
        raise SourceError(
            f"{path} holds no 'attention', expected it beside or instead of {', '.join(held)[:80] or '-'}"
        )


@contextmanager
def _npy(path: Path) -> Iterator[_Stored]:
    values = np.lib.format.open_memmap(path, mode="r")
    yield _Stored(values.shape, values, {})


@contextmanager
def _npz(path: Path) -> Iterator[_Stored]:
    with path.open("rb") as stream:  # numpy leaves a file open that it opened itself and cannot read
        archive = np.load(stream, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise SourceError(f"{path} cannot be read as .npz: it holds a single array, not an archive")
        _required(archive, path)
        declared = {name: archive[name] for name in ("tokens", *_DECLARED) if name in archive}
        attention = archive["attention"]
        yield _Stored(attention.shape, attention, declared)


@contextmanager
def _safetensors(path: Path) -> Iterator[_Stored]:
    with safe_open(path, framework="np") as file:
        names = file.keys()
        _required(names, path)
        attention = file.get_slice("attention")
        shape, bfloat16 = tuple(attention.get_shape()), attention.get_dtype() == "BF16"
        declared = {name: file.get_tensor(name) for name in _DECLARED if name in names}
        tokens = (file.metadata() or {}).get("tokens")
        if tokens is not None:
            declared["tokens"] = np.array(json.loads(tokens))
        values = _bfloat16_bits(path, shape) if bfloat16 else attention
        yield _Stored(shape, values, declared, "bfloat16" if bfloat16 else None)


def _bfloat16_bits(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The attention of a file as uint16: safetensors reads no bfloat16 into numpy, which has no such type."""
    tensors = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    return np.frombuffer(tensors["attention"]["data"], "<u2").reshape(shape)


_READERS: dict[str, Callable[[Path], AbstractContextManager[_Stored]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
}
