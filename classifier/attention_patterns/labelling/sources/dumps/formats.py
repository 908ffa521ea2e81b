"""The formats of dumps by their suffix."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.parquet import open_parquet
from attention_patterns.labelling.sources.dumps.raw import open_npy, open_npz, open_safetensors
from attention_patterns.labelling.sources.dumps.stored import OpenDump
from attention_patterns.labelling.sources.dumps.zarr import open_zarr
from attention_patterns.labelling.sources.files import StoredFile, explain_errors

_READERS: dict[str, Callable[..., AbstractContextManager[OpenDump]]] = {
    ".npz": open_npz,
    ".npy": open_npy,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
    ".zarr": open_zarr,
}
SUFFIXES = tuple(_READERS)
FOLDERS = (".zarr",)  # those of SUFFIXES that are folders


@contextmanager
def open_dump(file: StoredFile, *, most_bytes: int | None = None, axes: Axes | None = None) -> Iterator[OpenDump]:
    """Opens a dump, of one of ``SUFFIXES``.

    Args:
        file: File, as ``find_files`` returns it.
        most_bytes: Bytes of attention that may be in memory at once; None where only the header is going to be read.
        axes: Order of the axes of attention that has five of them; None to find it.

    Raises:
        SourceError: The file cannot be read; the message begins with its name.
        InvalidSettingsError: The order of the axes is not given and cannot be known.
        MissingExtraError: A package that reads this format is not installed.
    """
    with ExitStack() as stack:
        with name_in_errors(file):
            dump = stack.enter_context(_READERS[file.suffix](file, most_bytes=most_bytes, axes=axes))
        yield dump


@contextmanager
def name_in_errors(file: StoredFile) -> Iterator[None]:
    """Turns whatever goes wrong inside, while a dump is read, into a SourceError that names it."""
    try:
        with explain_errors(f"{file.shown} cannot be read as {file.suffix}"):
            yield
    except SourceError as error:
        if str(error).startswith(file.shown):
            raise
        raise SourceError(f"{file.shown} cannot be read as {file.suffix}: {error}") from error
