"""The formats of dumps by their suffix."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.parquet import parquet_dump
from attention_patterns.labelling.sources.dumps.raw import npy_dump, npz_dump, safetensors_dump
from attention_patterns.labelling.sources.dumps.stored import OpenDump
from attention_patterns.labelling.sources.dumps.zarr import zarr_dump
from attention_patterns.labelling.sources.files import StoredFile, explained

_READERS: dict[str, Callable[..., AbstractContextManager[OpenDump]]] = {
    ".npz": npz_dump,
    ".npy": npy_dump,
    ".safetensors": safetensors_dump,
    ".parquet": parquet_dump,
    ".zarr": zarr_dump,
}
SUFFIXES = tuple(_READERS)
FOLDERS = (".zarr",)  # of these, those that are folders


@contextmanager
def opened_dump(file: StoredFile, *, most_bytes: int | None = None) -> Iterator[OpenDump]:
    """Opens a dump, of one of ``SUFFIXES``.

    Args:
        file: of ``find_files``.
        most_bytes: of attention that may be in memory at once; None where only the header is going to be asked for.

    Raises:
        SourceError: it cannot be read, by a message that begins with its name.
    """
    with ExitStack() as stack:
        with told_of(file):
            dump = stack.enter_context(_READERS[file.suffix](file, most_bytes=most_bytes))
        yield dump


@contextmanager
def told_of(file: StoredFile) -> Iterator[None]:
    """Turns all that may go wrong while a dump is read into SourceErrors that name it."""
    try:
        with explained(f"{file.shown} cannot be read as {file.suffix}"):
            yield
    except SourceError as error:
        if str(error).startswith(file.shown):
            raise
        raise SourceError(f"{file.shown} cannot be read as {file.suffix}: {error}") from error
