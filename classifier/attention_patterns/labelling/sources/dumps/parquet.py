"""Parquet files of dumped attention: each row is an input, and rows are decoded one by one."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attention_patterns.attention_map import MANY
from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.dumps.layout import Axes
from attention_patterns.labelling.sources.dumps.stored import (
    DECLARED,
    ArrayMaps,
    DumpHeader,
    OpenDump,
    StoredInput,
    check_fits,
    misnamed_warnings,
    read_declared,
    require_attention,
)
from attention_patterns.labelling.sources.files import StoredFile, explain_errors, open_file

_LARGEST_TRIED = 2**26  # bytes of a row that may be decoded for its shape alone
_BUFFER = 2**20  # bytes of a column read at a time, so that no column of a row group is in memory as a whole


@contextmanager
def open_parquet(file: StoredFile, *, most_bytes: int | None, axes: Axes | None) -> Iterator["ParquetDump"]:  # noqa: ARG001
    """Opens a .parquet file; see ``formats.open_dump``."""
    with ExitStack() as stack:
        source = stack.enter_context(open_file(file.url))
        parquet = stack.enter_context(pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER))
        require_attention(parquet.schema_arrow.names)
        yield ParquetDump(parquet, most_bytes)


class ParquetDump(OpenDump):
    """An opened Parquet file."""

    def __init__(self, parquet: Any, most_bytes: int | None) -> None:
        self._parquet, self._most_bytes = parquet, most_bytes
        self._schema: Any = parquet.schema_arrow
        self._columns = [name for name in ("attention", "shape", *DECLARED) if name in self._schema.names]
        groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
        self._ends = [*accumulate(groups)]
        self._rows: Iterator[Any] = iter(())
        self._group, self._next, self._failed = -1, 0, ""

    def header(self) -> DumpHeader:
        """Returns the number of inputs, the sizes of the first and all ids.

        The shape is that of the column's tensors, or else that of the first row, unless that is very large.
        """
        if not self._ends or not self._ends[-1]:
            raise SourceError("it has no rows, expected an input in each")
        layers, heads, length, _ = ((1,) * 4 + self._first_shape())[-4:]
        groups = tuple(np.diff(self._ends, prepend=0).tolist())
        header = DumpHeader(self._ends[-1], layers, heads, length, self._itemsize, groups)
        return replace(header, ids=self._ids())

    @property
    def _itemsize(self) -> int:
        value = self._schema.field("attention").type
        while hasattr(value, "value_type"):
            value = value.value_type
        return int(value.bit_width // 8)

    def _row_bytes(self, group: int) -> int:
        """Returns the bytes of attention of a row of a row group, the mean of all, from the file's header."""
        rows = self._parquet.metadata.row_group(group)
        columns = (rows.column(n) for n in range(rows.num_columns))
        values = max(column.num_values for column in columns if column.path_in_schema.split(".")[0] == "attention")
        return int(values * self._itemsize // max(rows.num_rows, 1))

    def input(self, n: int | None) -> StoredInput:
        """Decodes a row; those before it in its row group are skipped."""
        if n is None or n >= self._ends[-1]:
            planned = "could not be read" if n is None else f"had a row {n}"
            raise SourceError(f"it has {self._ends[-1]} rows, but {planned} when the run was planned")
        if self._most_bytes is not None:
            group = int(np.searchsorted(self._ends, n, side="right"))
            check_fits(f"a row of row group {group}", self._row_bytes(group), self._most_bytes)
        row = self._row(n)
        values = _attention(row)
        if self._most_bytes is not None:
            check_fits(f"row {n}", values.nbytes, self._most_bytes)
        cells = {name: row.column(name)[0].as_py() for name in DECLARED if name in self._columns}
        declared = {
            name: value if name in ("tokens", "special_tokens") else np.asarray(value)
            for name, value in cells.items()
            if value is not None
        }
        return StoredInput(
            ArrayMaps(values.reshape(_without_batch(values.shape))),
            read_declared(declared),
            misnamed_warnings(self._schema.names),
        )

    def _row(self, n: int) -> Any:
        group = int(np.searchsorted(self._ends, n, side="right"))
        if group != self._group or n < self._next:
            self._group, self._next, self._failed = group, ([0, *self._ends])[group], ""
            self._rows = self._parquet.iter_batches(
                batch_size=1, row_groups=[group], columns=self._columns, use_threads=False
            )
        if self._failed:
            raise SourceError(self._failed)
        try:
            with explain_errors(f"row group {group}"):
                while self._next <= n:
                    row = next(self._rows)
                    self._next += 1
        except SourceError as error:
            self._failed = str(error)
            raise
        return row

    def _first_shape(self) -> tuple[int, ...]:
        kind = self._schema.field("attention").type
        if isinstance(kind, pa.FixedShapeTensorType):
            return _without_batch(tuple(kind.shape))
        if self._row_bytes(0) > _LARGEST_TRIED:
            return (1,)
        try:
            with explain_errors("row 0"):
                return _without_batch(_attention(self._row(0)).shape)
        except SourceError:
            return (1,)  # the row fails when it is read in its turn

    def _ids(self) -> tuple[str, ...] | None:
        if "input_id" not in self._schema.names:
            return None
        ids = self._parquet.read(columns=["input_id"], use_threads=False).column(0).to_pylist()
        rows: dict[object, int] = {}
        for row, input_id in enumerate(ids):
            if input_id is None or rows.setdefault(input_id, row) != row:
                also = "" if input_id is None else f", as in row {rows[input_id]}"
                raise SourceError(f"input_id is {input_id!r:.80} in row {row}{also}, expected another id in each row")
        return tuple(map(str, ids))


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a row, which is one input, without the axis of a batch of one: [layers, 1, heads, L, L]."""
    return (shape[0], *shape[2:]) if len(shape) == MANY and shape[1] == 1 else shape


def _attention(row: Any) -> NDArray[Any]:
    """Returns the values of a row in the shape of the input."""
    column = row.column("attention")
    if column.null_count:
        raise SourceError("attention is null, expected an array")
    if isinstance(column.type, pa.FixedShapeTensorType):
        tensor: NDArray[Any] = column.to_numpy_ndarray()[0]
        return tensor
    values = _flatten_lists(column)
    if "shape" not in row.schema.names or values.ndim != 1:
        return values
    shape = row.column("shape")[0].as_py()
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise SourceError(f"shape is {shape!r:.80}, expected a list of sizes")
    if int(np.prod(shape, dtype=object)) != values.size:
        raise SourceError(f"shape is {shape!r:.80}, but attention has {values.size} values")
    return values.reshape(shape)


def _flatten_lists(lists: Any) -> NDArray[Any]:
    """Returns the values of nested lists, all of one length at each depth; the outermost holds the row only."""
    sizes, values = list[int](), lists
    while pa.types.is_nested(values.type) and hasattr(values.type, "value_type"):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if values.null_count or len(lengths) > 1:
            raise SourceError(
                f"attention is lists of {lengths!r:.80} entries at depth {len(sizes)}, expected one length"
            )
        sizes.append(lengths[0] if lengths else 0)
        values = values.flatten()
    if not sizes or values.null_count or not pa.types.is_primitive(values.type):
        raise SourceError(
            f"attention is {str(lists.type)!r:.80} with {values.null_count} nulls, "
            "expected a fixed_shape_tensor or lists of numbers"
        )
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return flat.reshape(sizes)
