"""Sentences made by a small grammar, with paraphrases and contradictions: source texts, and tasks to fine-tune on."""

from dataclasses import dataclass, replace

import numpy as np

_WHO = {
    "person": (
        "the baker", "my neighbour", "an old sailor", "the night porter", "a young chemist", "the mayor", "her cousin",
        "the piano tuner", "a tired nurse", "our teacher", "the lock keeper", "a travelling dentist", "the gardener",
    ),
    "group": (
        "two students", "the fishermen", "several guests", "the twins", "both drivers", "the bell ringers",
        "some hikers",
    ),
}  # fmt: skip
_DO = (
    ("repaired", "mended", "broke"), ("painted", "coloured", "scrubbed"), ("sold", "traded", "bought"),
    ("found", "discovered", "lost"), ("carried", "hauled", "dropped"), ("opened", "unlocked", "closed"),
    ("praised", "admired", "mocked"), ("hid", "concealed", "showed"), ("built", "made", "destroyed"),
    ("remembered", "recalled", "forgot"), ("cleaned", "washed", "soiled"), ("borrowed", "took", "returned"),
)  # fmt: skip
_LIKE = ("delicious", "broken", "splendid", "useless", "charming", "dreadful", "bright", "shabby", "elegant", "rotten")
_WHAT = (
    "lantern", "kettle", "wooden boat", "violin", "ladder", "map of the harbour", "blue door", "bicycle", "clock",
    "stone wall", "basket of plums", "letter", "telescope", "saddle", "copper pan", "tent", "printing press", "cake",
    "old radio", "garden gate", "fur coat", "parcel", "microscope", "chess set",
)  # fmt: skip
_WHERE = (
    "behind the station", "near the river", "in the cellar", "on the pier", "at the market", "under the bridge",
    "in a narrow street", "beside the mill", "on the roof", "outside the library", "at the edge of the wood",
)  # fmt: skip
_WHEN = (
    "before dawn", "last winter", "on Tuesday", "after the storm", "during the strike", "at noon", "twice a week",
    "in the dry season", "long ago", "while it rained",
)  # fmt: skip
_WHY = (
    "because nobody else would", "although the wind was cold", "so that the children could see it",
    "without telling anyone", "for a very small price", "to the surprise of the whole village", "with great care",
    "and went home whistling", "but the work was not finished", "as the law requires",
)  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """Indices into the word lists; equal statements say the same."""

    who: str
    verb: int
    quality: str
    what: str
    where: str
    when: str
    why: str

    def text(self, form: int = 0, *, order: int = 0, tail: bool = True) -> str:
        """The sentence: ``form`` 0 plain, 1 a synonym, 2 the opposite verb; ``order`` 0 to 2 moves the time."""
        verb, why = _DO[self.verb][form], f" {self.why}" if tail else ""
        clause = f"{self.who} {verb} the {self.quality} {self.what} {self.where}"
        if order == 1:
            return f"{self.when.capitalize()}, {clause}{why}."
        if order == 2:
            moved = f"{self.where}, {self.who} {verb} the {self.quality} {self.what} {self.when}{why}."
            return moved[0].upper() + moved[1:]
        return f"{clause[0].upper()}{clause[1:]} {self.when}{why}."

    def question(self) -> str:
        """A question that the statement answers."""
        return f"Who {_DO[self.verb][0]} the {self.what} {self.where}?"


def statement(rng: np.random.Generator) -> Statement:
    """A random statement."""
    who = [*_WHO["person"], *_WHO["group"]]

    def one(words: tuple[str, ...] | list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    verb = int(rng.integers(len(_DO)))
    return Statement(one(who), verb, one(_LIKE), one(_WHAT), one(_WHERE), one(_WHEN), one(_WHY))


def passage(rng: np.random.Generator, count: int) -> str:
    """``count`` sentences about one place and one time."""
    first = statement(rng)
    parts = [first]
    while len(parts) < count:
        parts.append(replace(statement(rng), where=first.where, when=first.when))
    return " ".join(
        p.text(int(rng.integers(2)), order=int(rng.integers(3)), tail=bool(rng.random() < 0.5)) for p in parts
    )


def pair(rng: np.random.Generator) -> tuple[str, str, int]:
    """Two texts and how they stand to each other: 0 the same in other words, 1 contrary, 2 unrelated."""
    relation, one = int(rng.integers(3)), statement(rng)
    tail = bool(rng.random() < 0.5)
    first = one.text(0, order=int(rng.integers(3)), tail=tail)
    if relation == 2:
        return first, statement(rng).text(0, order=int(rng.integers(3)), tail=tail), relation
    return first, one.text(1 + relation, order=int(rng.integers(3)), tail=bool(rng.random() < 0.5)), relation


def judged(rng: np.random.Generator) -> tuple[str, int]:
    """A single text and whether its opinion of the thing is kind (1) or not (0)."""
    one = statement(rng)
    return one.text(int(rng.integers(3)), order=int(rng.integers(3))), int(_LIKE.index(one.quality) % 2 == 0)


def question_pair(rng: np.random.Generator) -> tuple[str, str, int]:
    """A question and a passage, and whether the passage answers it (1) or not (0)."""
    one = statement(rng)
    answered = int(rng.integers(2))
    parts = [statement(rng).text(0, tail=False), statement(rng).text(0, tail=False)]
    if answered:
        parts.insert(int(rng.integers(3)), one.text(0, tail=False))
    return one.question(), " ".join(parts), answered


def scrambled(rng: np.random.Generator) -> tuple[str, int]:
    """A single text, and whether two neighbouring words were exchanged (1) or not (0): a task of word order."""
    words = statement(rng).text(0, order=int(rng.integers(3))).split()
    wrong = int(rng.integers(2))
    if wrong:
        at = int(rng.integers(len(words) - 1))
        words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words), wrong
