"""Texts and pictures as a transformer takes them, alone and in batches."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_patterns.errors import SourceError
from attention_patterns.labelling.sources.files import explain_errors, open_file
from attention_patterns.labelling.sources.texts.tasks import Picture, Text
from attention_patterns.outputs import segments_of
from attention_patterns.special_tokens import special_tokens_of

NO_LIMIT = 2**20  # tokens, for models and tokenizers that name no maximum

_MOST_PER_BATCH = 32  # texts
_MOST_TOKENS = 4096  # per batch: more are no faster
_MOST_PADDING = 1 / 8  # of the tokens of a batch
_PROBES = (9, 5)  # tokens
_FEWEST_WORDS = 3  # transformers makes a tokenizer of special tokens, and a mark or two, where its files are missing


@dataclass(frozen=True, eq=False)
class Encoded:
    """A text or picture as the model takes it.

    Attributes:
        input_id: Id of the text or picture.
        length: Number of tokens.
        fields: Arguments of the model by name, without the batch axis.
        tokens: Tokens as strings; None where they are not known.
        segments: Segment of each token, int64 [length]; None where there are none.
        warnings: Sentences on what was done to it.
        shape: Shape of a picture's pixels; only pictures of one shape are run together.
    """

    input_id: str
    length: int
    fields: Mapping[str, Any]
    tokens: tuple[str, ...] | None
    segments: NDArray[np.int64] | None
    warnings: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


class Reader(ABC):
    """A maker of a model's arguments from texts or pictures."""

    kind: type[Text | Picture]
    special_tokens: frozenset[str] = frozenset()  # besides those known by name
    together: int  # inputs that are encoded before the first is run

    @abstractmethod
    def encode(self, item: Text | Picture) -> Encoded:
        """Encodes one input.

        Raises:
            SourceError: The input cannot be read, or the model takes another kind.
        """

    @abstractmethod
    def arguments(self, batch: Sequence[Encoded]) -> dict[str, NDArray[Any]]:
        """Returns the arguments of the model by name, each [batch, ...], padded on the right."""

    @abstractmethod
    def probes(self) -> list[Encoded]:
        """Returns two inputs that show what the model returns."""

    def names(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Returns the tokens with these ids; pictures have none."""
        return tuple(map(str, ids))

    def fit(self, length: int) -> None:  # noqa: B027  texts are as long as their ids
        """Adapts to the number of tokens that the model made of the longest probe."""


class TextReader(Reader):
    """A reader of texts and pairs by a tokenizer.

    They are padded on the right, so that positions count from 0 and a decoder never sees padding.
    """

    kind = Text
    together = NO_LIMIT

    def __init__(self, tokenizer: Any, *, accepts: Set[str], longest: int, truncate: bool) -> None:
        """Takes a tokenizer.

        Args:
            tokenizer: Tokenizer of the model.
            accepts: Arguments that the model takes.
            longest: Most tokens that the model takes.
            truncate: Whether to cut longer texts; else they fail.

        Raises:
            SourceError: The tokenizer has no vocabulary.
        """
        self._tokenizer, self._accepts, self._longest, self._truncate = tokenizer, accepts, longest, truncate
        self._turn = threading.Lock()  # to cut a text, the tokenizer itself is set to cut
        self.special_tokens = special_tokens_of(tokenizer)  # before any word is made the padding
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        self._words = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        if len(self._words) < _FEWEST_WORDS:
            raise SourceError("its tokenizer knows special tokens only, expected a vocabulary: are its files missing?")

    def encode(self, item: Text | Picture) -> Encoded:  # noqa: D102
        if not isinstance(item, Text):
            raise SourceError(f"{item.input_id} is a picture, expected a text: the model takes texts")
        encoding = self._tokenize(item)
        total = len(encoding["input_ids"])
        if not total:
            raise SourceError(f"{item.input_id} gives no tokens, expected at least one")
        if total > self._longest and not self._truncate:
            raise SourceError(
                f"{item.input_id} has {total} tokens, the model takes {self._longest}; --truncate cuts it"
            )
        if total <= self._longest:
            return self._make_encoded(item, encoding)
        cut = self._tokenize(item, truncation=True, max_length=self._longest)
        return self._make_encoded(item, cut, f"the text was cut from {total} to {len(cut['input_ids'])} tokens")

    def _tokenize(self, text: Text, **settings: Any) -> Any:
        try:
            with self._turn:
                return self._tokenizer(text.first, text.second, verbose=False, **settings)
        except Exception as error:  # tokenizers raises kinds derived from nothing common
            raise SourceError(f"{text.input_id} cannot be cut into tokens: {error}") from error

    def _make_encoded(self, text: Text, encoding: Any, *warnings: str) -> Encoded:
        ids, types = encoding["input_ids"], encoding.get("token_type_ids")
        fields = {"attention_mask": [1] * len(ids), **encoding}  # which some tokenizers leave out
        return Encoded(
            input_id=text.input_id,
            length=len(ids),
            fields={name: values for name, values in fields.items() if name in self._accepts},
            tokens=self.names(ids),
            segments=segments_of(encoding, 0, None if types is None else np.asarray(types)),
            warnings=warnings,
        )

    def names(self, ids: Sequence[int]) -> tuple[str, ...]:  # noqa: D102
        return tuple(str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids)))

    def arguments(self, batch: Sequence[Encoded]) -> dict[str, NDArray[Any]]:  # noqa: D102
        longest = max(encoded.length for encoded in batch)
        padding = {"input_ids": self._tokenizer.pad_token_id, "token_type_ids": self._tokenizer.pad_token_type_id}

        def pad(name: str) -> NDArray[np.int64]:
            rows = np.full((len(batch), longest), padding.get(name, 0), np.int64)
            for row, encoded in zip(rows, batch, strict=True):
                row[: encoded.length] = encoded.fields[name]
            return rows

        return {name: pad(name) for name in batch[0].fields}

    def probes(self) -> list[Encoded]:  # noqa: D102
        return [self._make_probe(length) for length in _PROBES]

    def _make_probe(self, length: int) -> Encoded:
        """Makes an input of tokens of the vocabulary, since no text is known to be of the tokenizer's language."""
        ids = np.resize(self._words[:length], min(length, self._longest)).tolist()
        names = self._accepts & {*self._tokenizer.model_input_names, "attention_mask"}
        fields = {
            name: {"input_ids": ids, "attention_mask": [1] * len(ids)}.get(name, [0] * len(ids)) for name in names
        }
        return Encoded("a probe", len(ids), fields, self.names(ids), None)


class PictureReader(Reader):
    """A reader of pictures by an image processor; their tokens are special ones and then the patches, row by row."""

    kind = Picture
    together = _MOST_PER_BATCH

    def __init__(self, processor: Any, *, accepts: Set[str], patch: Any, names: Sequence[str]) -> None:
        """Takes an image processor.

        Args:
            processor: Image processor of the model.
            accepts: Arguments that the model takes.
            patch: Pixels per side of a patch, or rows and columns of pixels.
            names: Names of the special tokens before the patches.
        """
        self._made = 0  # tokens that the model makes of a picture, where they are not those that have names
        self._processor, self._accepts, self._names = processor, accepts, tuple(names)
        self._patch = (patch, patch) if isinstance(patch, int) else tuple(patch)

    def encode(self, item: Text | Picture) -> Encoded:  # noqa: D102
        if not isinstance(item, Picture):
            raise SourceError(f"{item.input_id} is a text, expected a picture: the model takes pictures")
        return self._process(item.input_id, _open_picture(item))

    def _process(self, input_id: str, picture: Any) -> Encoded:
        try:
            processed = self._processor(images=picture, return_tensors="np")
        except Exception as error:  # processors raise whatever numpy and Pillow do
            raise SourceError(f"{input_id} cannot be made an input of the model: {error}") from error
        tokens = self._name_tokens(processed["pixel_values"].shape[-2:])
        unnamed = f"the tokens are not named: the model makes {self._made} of a picture, its patches give {len(tokens)}"
        return Encoded(
            input_id=input_id,
            length=self._made or len(tokens),
            fields={name: values[0] for name, values in processed.items() if name in self._accepts},
            tokens=None if self._made else tokens,
            segments=None,
            warnings=(unnamed,) if self._made else (),
            shape=processed["pixel_values"].shape[1:],
        )

    def _name_tokens(self, pixels: tuple[int, ...]) -> tuple[str, ...]:
        rows, columns = (size // side for size, side in zip(pixels, self._patch, strict=True))
        return (*self._names, *(f"patch {row},{column}" for row in range(rows) for column in range(columns)))

    def arguments(self, batch: Sequence[Encoded]) -> dict[str, NDArray[Any]]:  # noqa: D102
        return {name: np.stack([encoded.fields[name] for encoded in batch]) for name in batch[0].fields}

    def probes(self) -> list[Encoded]:  # noqa: D102
        noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
        return [self._process("a probe", _make_picture(pixels)) for pixels in noise]

    def fit(self, length: int) -> None:  # noqa: D102
        self._made = length if length != self.probes()[0].length else 0


def batches(items: Mapping[int, Encoded], *, fits: Callable[[int, int], bool]) -> Iterator[list[int]]:
    """Yields the keys of inputs to run together: those of one length first, then with some padding.

    Args:
        items: Inputs by any key.
        fits: Function of a count and a length: whether so many inputs of that length fit in memory. A single input is
            always a batch.
    """
    batch: list[int] = []
    tokens = 0
    for length, shape, key in sorted((encoded.length, encoded.shape, key) for key, encoded in items.items()):
        count = len(batch) + 1
        cells = count * length  # with padding
        small = count <= _MOST_PER_BATCH and cells <= _MOST_TOKENS and cells - tokens - length <= _MOST_PADDING * cells
        if batch and not (small and shape == items[batch[0]].shape and fits(count, length)):
            yield batch
            batch, tokens = [], 0
        batch.append(key)
        tokens += length
    if batch:
        yield batch


def _make_picture(pixels: NDArray[np.uint8]) -> Any:
    from PIL import Image  # noqa: PLC0415  texts need no Pillow

    return Image.fromarray(pixels)


def _open_picture(picture: Picture) -> Any:
    """Reads a picture in three channels."""
    from PIL import Image  # noqa: PLC0415  texts need no Pillow

    subject = f"picture {picture.url} cannot be read"
    with explain_errors(subject), open_file(picture.url) as file, Image.open(file) as image:
        return image.convert("RGB")
