"""Measures labelling a model's attention against its plain forward pass: ``python -m benchmarks.offline_models``.

MiniLM runs over texts of one length. The forward pass is ``model(**batch, output_attentions=True)`` on the batches that
the labeller makes, and nothing else: one after the other on all cores, or two at once on half of the cores each, as the
labeller does. "Measured" goes from the texts to the images and measures of the maps; "labelled" goes on through the net
to the Parquet tables of a part. Processor time counts the work of all cores, and holds on a busy machine too.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import AutoModel, AutoTokenizer

from attention_patterns import PatternClassifier
from attention_patterns.labelling.output.part import PartMaker
from attention_patterns.labelling.sources.memory import Memory
from attention_patterns.labelling.sources.models.encodings import TextReader, batches
from attention_patterns.labelling.sources.models.source import ModelSource
from attention_patterns.labelling.sources.models.turns import CALLERS
from attention_patterns.labelling.sources.source import Unit
from attention_patterns.labelling.sources.texts.tasks import Text
from attention_patterns.sample import sample_encoder
from benchmarks.tables import ResultTable, keep

_LENGTHS = (16, 32, 64, 128, 256, 512)  # tokens
_UNITS = 4  # per round
_TOKENS = 2048  # of a unit, or more where that is but a few texts
_WORDS = (
    "the",
    "ferry",
    "leaves",
    "at",
    "seven",
    "who",
    "waits",
    "for",
    "rain",
    "roof",
    "soup",
    "salt",
    "path",
    "well",
)
_ENOUGH_MEMORY = 2**31  # bytes
_COLUMNS = (
    "tokens",
    "forward, ms per text",
    "two at once / forward",
    "measured / forward",
    "labelled / forward",
    "labelled / two at once",
    "labelled / two at once, processor time",
)


@dataclass(frozen=True)
class _Spent:
    """Time of one piece of work, seconds: on the wall clock, and on the processor clock of all cores together."""

    wall: float
    processor: float


def main(rounds: Annotated[int, typer.Option(help="Rounds, of which the median is taken.", min=1)] = 5) -> None:
    """Prints the time of the forward pass, and the time of labelling in multiples of it."""
    folder = str(sample_encoder())
    classifier = PatternClassifier.load()
    classifier.warm_up()
    rows = [_row(folder, length, classifier, rounds) for length in _LENGTHS]
    table = ResultTable(
        title="Labelling MiniLM's attention beside its forward pass",
        shows="Texts of one length, 72 maps each. The forward pass is `model(**batch, output_attentions=True)` alone; "
        '"two at once" runs two of them side by side, as the labeller does; "measured" goes from texts to images and '
        'measures; "labelled" goes from texts to Parquet.',
        columns=_COLUMNS,
        rows=rows,
    )
    keep("offline_models", table)


def _row(folder: str, length: int, classifier: PatternClassifier, rounds: int) -> tuple[str, ...]:
    texts = _texts(length)
    source = ModelSource((folder,), tuple((f"unit {n}", texts) for n in range(_UNITS)))
    spent = _in_turns(_works(folder, source, classifier), rounds)

    def times(work: str, other: str, clock: str = "wall") -> str:
        ratios = [getattr(of[work], clock) / getattr(of[other], clock) for of in spent]
        return f"{np.median(ratios):.2f}"

    return (
        str(length),
        f"{1000 * np.median([of['forward'].wall for of in spent]) / _UNITS / len(texts):.2f}",
        times("two at once", "forward"),
        times("measured", "forward"),
        times("labelled", "forward"),
        times("labelled", "two at once"),
        times("labelled", "two at once", "processor"),
    )


def _texts(length: int) -> tuple[Text, ...]:
    """Returns texts of words that are one token each, so that with [CLS] and [SEP] they have ``length`` tokens."""
    random = np.random.default_rng(length)
    return tuple(Text(f"t:{n}", " ".join(random.choice(_WORDS, length - 2))) for n in range(max(8, _TOKENS // length)))


def _works(folder: str, source: ModelSource, classifier: PatternClassifier) -> dict[str, Callable[[], object]]:
    model: Any = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    units, maker, threads = source.units(), PartMaker(source, classifier, Memory(None)), torch.get_num_threads()
    arguments = {unit.number: _arguments(folder, unit) for unit in units}

    def forward(unit: Unit) -> None:
        with torch.no_grad():
            for batch in arguments[unit.number]:
                model(**batch, output_attentions=True)

    def measure(unit: Unit) -> None:
        for _ in source.measure(unit, classifier, most_bytes=_ENOUGH_MEMORY):
            pass

    def at_once(work: Callable[[Unit], object]) -> list[object]:
        with ThreadPoolExecutor(source.callers()) as pool:
            return list(pool.map(work, units))

    def two_at_once() -> None:
        torch.set_num_threads(max(1, threads // CALLERS))
        at_once(forward)
        torch.set_num_threads(threads)

    return {
        "forward": lambda: list(map(forward, units)),
        "two at once": two_at_once,
        "measured": lambda: at_once(measure),
        "labelled": lambda: at_once(partial(maker.make, alone=True)),
    }


def _arguments(folder: str, unit: Unit) -> list[dict[str, Any]]:
    """Returns the arguments of the model for each batch of a unit's texts, as the labeller runs them together."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    accepts = {"input_ids", "attention_mask", "token_type_ids"}
    reader = TextReader(tokenizer, accepts=accepts, longest=512, truncate=False)
    encoded = dict(enumerate(map(reader.encode, _texts_of(unit))))
    batches_of_unit = batches(encoded, fits=lambda *_: True)
    return [
        {name: torch.from_numpy(values) for name, values in reader.arguments([encoded[n] for n in batch]).items()}
        for batch in batches_of_unit
    ]


def _texts_of(unit: Unit) -> Iterable[Text]:
    return unit.items[1:]


def _in_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> Sequence[Mapping[str, _Spent]]:
    """Returns the time of each work in each round; the first round is not counted."""
    return [{name: _clock(work) for name, work in works.items()} for _ in range(rounds + 1)][1:]


def _clock(work: Callable[[], object]) -> _Spent:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return _Spent(time.perf_counter() - wall, time.process_time() - processor)


if __name__ == "__main__":
    typer.run(main)
