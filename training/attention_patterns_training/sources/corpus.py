"""The text that the source models are trained on: paragraphs of Debian's documentation, fetched when needed.

Debian's Python documentation gives prose and code, its reference manual prose and tables. The repository keeps the
attention of models, not this text.
"""

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import PreTrainedTokenizerFast

PACKAGES = ("python3.11-doc", "debian-reference-en")
VOCABULARY = 4096
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
HELD_BACK = 10  # every tenth paragraph trains no model and can be a source text


def fetch(folder: Path) -> None:
    """Downloads and unpacks the packages with apt-get and dpkg-deb, unless the folder holds them already."""
    if (folder / "usr").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # apt-get drops its rights before it downloads
    for package in PACKAGES:
        subprocess.run(["apt-get", "download", "--quiet=2", package], cwd=folder, check=True)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", archive, folder], check=True)


def _read_documents(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("usr/share/doc/python3.11/html/_sources/**/*.rst.txt")):
        yield path.read_text(encoding="utf-8")
    with gzip.open(folder / "usr/share/debian-reference/debian-reference.en.txt.gz", "rt", encoding="utf-8") as file:
        yield file.read()


def read_paragraphs(folder: Path) -> list[str]:
    """Returns all paragraphs of 60 to 2,500 characters, markup and line breaks removed, in a fixed order."""
    fetch(folder)
    paragraphs = []
    for document in _read_documents(folder):
        for block in re.split(r"\n\s*\n", document):
            text = re.sub(r":[\w:]+:`~?([^`<]*)[^`]*`|``([^`]*)``", r"\1\2", block)
            text = " ".join(text.replace("**", "").split())
            if 60 <= len(text) <= 2500 and not text.startswith(("..", ":", "+", "=", "|")):
                paragraphs.append(text)
    return paragraphs


def cut_sentences(paragraph: str) -> list[str]:
    """Cuts a paragraph after full stops, question and exclamation marks, colons and semicolons."""
    return [sentence for sentence in re.split(r"(?<=[.?!;:])\s+", paragraph) if len(sentence) > 12]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Trains a lower-case WordPiece tokenizer of 4,096 entries that writes [CLS] first [SEP] second [SEP]."""
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False)
    names = {name: f"[{name.split('_')[0].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, mask_token="[MASK]", **names)
