"""The run on Ray: units of work through a pool of workers, each on one core, on this machine or on a cluster.

Each node of a cluster needs the same version of this package with the extras that the source needs, the bundle's
folder where one is given, and the inputs: on a shared disk under the same paths, or behind URLs. Where a file is
missing, its inputs fail with its name. Only the driver, which runs on a node of the cluster, writes the output.
``--max-memory`` holds for each worker. Workers see no GPU, and import no code from the driver's current folder.
"""

import json
import os
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from attention_patterns import errors
from attention_patterns.classifier import Classifier
from attention_patterns.errors import AttentionPatternsError, InvalidSettingsError, OutputError, ServerError
from attention_patterns.labelling.output.folder import TABLES
from attention_patterns.labelling.output.part import Advance, Part, PartMaker
from attention_patterns.labelling.output.table import SCHEMA_VERSION, error_row
from attention_patterns.labelling.run.ray_cluster import check_settings, last_line, open_cluster
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.source import Source, Unit
from attention_patterns.pattern_classifier import PatternClassifier
from attention_patterns.rendering import RENDERING_VERSION

TRIES = 3  # of a unit whose worker dies: a node may be lost, but a unit too large for the memory fails each time
_AT_ONCE = {"batch_size": None, "batch_format": "pyarrow", "prefetch_batches": 0}  # prefetching holds a part back
_ROW = pa.schema([("error", pa.string()), ("plain", pa.string()), *((table, pa.large_binary()) for table in TABLES)])


def ray_engine(
    load: Callable[[], Classifier], *, address: str | None, max_memory: int | None, workers: int | None = None
) -> "RayEngine":
    """Returns an engine that makes parts by Ray Data.

    Args:
        load: Function that makes the classifier of a worker, which has one core; pickled.
        address: "HOST:PORT" of a cluster that this machine is a node of, or "auto" for the one that runs here; None
            starts one on this machine, which ends with the run.
        max_memory: Bytes that each worker may use; None for its share of what its node has.
        workers: Number of workers, one per core; all cores by default.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidSettingsError: ``address`` is not an address, or there are no workers.
    """
    check_settings(address, workers)
    return RayEngine(load, address, max_memory, workers)


@dataclass(frozen=True)
class RayEngine:
    """An engine that makes parts by Ray Data; attributes as the arguments of ``ray_engine``."""

    load: Callable[[], Classifier]
    address: str | None
    max_memory: int | None
    workers: int | None

    def __call__(self, units: Sequence[Unit], maker: PartMaker, advance: Advance) -> Generator[Part, None, None]:
        """Yields the part of each unit as soon as it is made.

        A unit whose worker dies is done again by another worker. After ``TRIES`` deaths it makes a part of which all
        inputs failed.

        Raises:
            ServerError: The cluster cannot be reached, or failed; or the classifier is a client, and its server failed.
            InvalidSettingsError: A worker has another version or another net than the driver, or too little memory.
            MissingExtraError: A package that the source needs is not installed on a node.
            SourceError: All inputs would fail for one reason.
        """
        if not units:
            return
        with open_cluster(self.address, self.workers) as ray:
            for part in self._parts(ray, units, maker):
                advance(part.inputs + len(part.errors), part.maps)
                yield part

    def _parts(self, ray: Any, units: Sequence[Unit], maker: PartMaker) -> Generator[Part, None, None]:
        here = _identity(maker.classifier)
        try:
            tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries).remote()
            setup = ray.put(_WorkerSetup(maker.source, self.load, self.max_memory, maker.keep_maps, here))
            if maker.source.shared:  # by a worker that ends, since a model may take all memory there is
                _read_row(ray.get(ray.remote(num_cpus=1, max_calls=1)(_check_source).remote(setup)))
            yield from self._make_parts(ray, units, (setup, tries))
        except ray.exceptions.RayError as error:
            reason = f"Ray failed: {last_line(error)}; expected {here} on each node. The run can be continued"
            raise ServerError(reason) from error

    def _make_parts(self, ray: Any, units: Sequence[Unit], arguments: tuple[Any, ...]) -> Generator[Part, None, None]:
        batches, left = iter(self._dataset(ray, units, arguments).iter_batches(**_AT_ONCE)), len(units)
        try:
            for batch in batches:
                left -= 1
                yield _unpack_part(batch)
        finally:
            batches.close()
        if left:
            raise ServerError(f"Ray ended before {left} of {len(units)} parts were made; the run can be continued")

    def _dataset(self, ray: Any, units: Sequence[Unit], arguments: tuple[Any, ...]) -> Any:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if not cores:
            raise ServerError("the Ray cluster has no CPUs, expected at least one node that does")
        rows = [{"unit": ray.cloudpickle.dumps(unit)} for unit in units]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=arguments,
            batch_size=1,
            batch_format="pyarrow",
            # A unit waits here and not at a worker, since it would be lost with it.
            compute=ray.data.ActorPoolStrategy(
                size=min(self.workers or cores, len(units)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
        )
        dataset.context.enable_progress_bars = False
        return dataset


@dataclass(frozen=True)
class _WorkerSetup:
    """The objects that a worker needs, sent to each node once."""

    source: Source
    load: Callable[[], Classifier]
    max_memory: int | None
    keep_maps: bool
    identity: str


def _check_source(setup: _WorkerSetup) -> pa.Table:
    """Returns the row of an empty part, or of the error for which all inputs would fail."""
    try:
        setup.source.check(setup.load())
    except Exception as error:  # noqa: BLE001  sent as data, so that the driver raises the same
        return _pack_error(error)
    return _make_row("", "", {})


class _Tries:
    """An actor that counts the tries of each unit, since Ray repeats one without end when its worker dies."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self._begun[number] += 1
        return self._begun[number]


class _Worker:
    """A maker of parts in a process of its own.

    Its first unit does what takes long or may fail, so that the failure reaches the driver.
    """

    def __init__(self, setup: Any, tries: Any) -> None:
        self._setup, self._tries = setup, tries
        self._maker: PartMaker | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import ray  # noqa: PLC0415  an extra

        (packed,) = batch["unit"].to_pylist()
        unit: Unit = ray.cloudpickle.loads(packed)
        try:
            if ray.get(self._tries.begin.remote(unit.number)) > TRIES:
                return _pack_part(_fail_unit(unit, ray.get(self._setup).source))
            self._maker = self._maker or self._make_maker(ray.get(self._setup))
            return _pack_part(self._maker.make(unit, alone=True))
        except Exception as error:  # noqa: BLE001  sent as data, so that the driver raises the same
            return _pack_error(error)

    def _make_maker(self, setup: _WorkerSetup) -> PartMaker:
        classifier = setup.load()
        here = _identity(classifier)
        if here != setup.identity:
            raise InvalidSettingsError(
                f"the Ray node {socket.gethostname()} has {here}, expected {setup.identity} as on the driver"
            )
        return PartMaker(setup.source, classifier, _WorkerMemory.from_now(setup.max_memory), keep_maps=setup.keep_maps)


@dataclass(frozen=True)
class _WorkerMemory(Memory):
    """Memory of a process that has one caller, beside as many others as its node has cores."""

    def of_a_caller(self, callers: int, *, prepared: int = 0) -> int:  # noqa: ARG002  they count for one process alone
        sharing = len(os.sched_getaffinity(0)) if self.most is None else 1
        return super().of_a_caller(sharing, prepared=prepared)


def _identity(classifier: Classifier) -> str:
    """Returns the versions that must be the same on all nodes, so that rows of one run are alike.

    The net of a client is that of its server, the same for all.
    """
    try:
        package = version("attention-patterns")
    except PackageNotFoundError:
        package = "of a checkout"
    own = f", net {classifier.bundle.sha256[:12]}" if isinstance(classifier, PatternClassifier) else ""
    return f"attention-patterns {package}, rendering {RENDERING_VERSION}, schema {SCHEMA_VERSION}{own}"


def _pack_part(part: Part) -> pa.Table:
    plain = {name: getattr(part, name) for name in ("number", "inputs", "maps", "warned", "errors")}
    return _make_row("", json.dumps(plain), part.tables)


def _pack_error(error: Exception) -> pa.Table:
    """Returns the row of an error that is being handled."""
    message = str(error) if isinstance(error, AttentionPatternsError) else traceback.format_exc()
    return _make_row(type(error).__name__, message, {})


def _make_row(error: str, plain: str, tables: Any) -> pa.Table:
    columns = {"error": error, "plain": plain} | {table: tables.get(table, b"") for table in TABLES}
    return pa.table({name: pa.array([value], _ROW.field(name).type) for name, value in columns.items()}, schema=_ROW)


def _unpack_part(batch: pa.Table) -> Part:
    """Returns the part of a row; raises as ``_read_row`` does."""
    row = _read_row(batch)
    plain = json.loads(row["plain"])
    tables = {table: row[table] for table in TABLES if row[table]}
    return Part(**plain | {"tables": tables, "errors": tuple(plain["errors"])})


def _read_row(batch: pa.Table) -> dict[str, Any]:
    """Returns the only row of a batch.

    Raises:
        AttentionPatternsError: The worker raised it; of the same kind.
        RuntimeError: The worker raised another kind of error, whose traceback this carries.
    """
    (row,) = batch.to_pylist()
    if row["error"]:
        kind = getattr(errors, row["error"], None)
        raise (kind or RuntimeError)(row["plain"])
    return dict(row)


def _fail_unit(unit: Unit, source: Source) -> Part:
    """Returns a part of which all inputs failed, for a unit whose workers died."""
    failure = OutputError(
        f"part {unit.number}: {TRIES} Ray workers were killed while they made it of {unit.inputs} inputs; if memory "
        "ran out, give --max-memory or use fewer workers"
    )
    return Part(unit.number, {}, 0, 0, 0, tuple(error_row(name, failure) for name in source.names(unit)))
