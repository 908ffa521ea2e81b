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
    """The content of a sentence; equal statements have the same meaning.

    Attributes:
        who: Subject.
        verb: Index of the verb, its synonym and its opposite.
        quality: Adjective of the object; every second one is kind.
        what: Object.
        where: Place.
        when: Time.
        why: Tail, which can be left out.
    """

    who: str
    verb: int
    quality: str
    what: str
    where: str
    when: str
    why: str

    def text(self, form: int = 0, *, order: int = 0, tail: bool = True) -> str:
        """Returns the sentence: ``form`` 0 plain, 1 a synonym, 2 the opposite verb; ``order`` 0 to 2 moves the time."""
        verb, why = _DO[self.verb][form], f" {self.why}" if tail else ""
        clause = f"{self.who} {verb} the {self.quality} {self.what} {self.where}"
        if order == 1:
            return f"{self.when.capitalize()}, {clause}{why}."
        if order == 2:
            moved = f"{self.where}, {self.who} {verb} the {self.quality} {self.what} {self.when}{why}."
            return moved[0].upper() + moved[1:]
        return f"{clause[0].upper()}{clause[1:]} {self.when}{why}."

    def question(self) -> str:
        """Returns a question that the statement answers."""
        return f"Who {_DO[self.verb][0]} the {self.what} {self.where}?"


@dataclass(frozen=True)
class Example:
    """An example of a task to fine-tune on: one text or two, and the class to be guessed, from 0."""

    label: int
    first: str
    second: str | None = None


def draw_statement(rng: np.random.Generator) -> Statement:
    """Draws a statement."""
    who = [*_WHO["person"], *_WHO["group"]]

    def choose(words: tuple[str, ...] | list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    verb = int(rng.integers(len(_DO)))
    return Statement(choose(who), verb, choose(_LIKE), choose(_WHAT), choose(_WHERE), choose(_WHEN), choose(_WHY))


def draw_passage(rng: np.random.Generator, count: int) -> str:
    """Draws ``count`` sentences about one place and one time."""
    first = draw_statement(rng)
    statements = [first]
    while len(statements) < count:
        statements.append(replace(draw_statement(rng), where=first.where, when=first.when))
    return " ".join(
        statement.text(int(rng.integers(2)), order=int(rng.integers(3)), tail=bool(rng.random() < 0.5))
        for statement in statements
    )


def draw_relation(rng: np.random.Generator) -> Example:
    """Draws two sentences and their relation: 0 the same in other words, 1 contrary, 2 unrelated."""
    relation, statement = int(rng.integers(3)), draw_statement(rng)
    tail = bool(rng.random() < 0.5)
    first = statement.text(0, order=int(rng.integers(3)), tail=tail)
    if relation == 2:
        return Example(relation, first, draw_statement(rng).text(0, order=int(rng.integers(3)), tail=tail))
    second = statement.text(1 + relation, order=int(rng.integers(3)), tail=bool(rng.random() < 0.5))
    return Example(relation, first, second)


def draw_answer(rng: np.random.Generator) -> Example:
    """Draws a question and a passage, and whether the passage answers it (1) or not (0)."""
    statement = draw_statement(rng)
    answered = int(rng.integers(2))
    sentences = [draw_statement(rng).text(0, tail=False), draw_statement(rng).text(0, tail=False)]
    if answered:
        sentences.insert(int(rng.integers(3)), statement.text(0, tail=False))
    return Example(answered, statement.question(), " ".join(sentences))


def draw_opinion(rng: np.random.Generator) -> Example:
    """Draws a sentence and whether its opinion of the thing is kind (1) or not (0)."""
    statement = draw_statement(rng)
    text = statement.text(int(rng.integers(3)), order=int(rng.integers(3)))
    return Example(int(_LIKE.index(statement.quality) % 2 == 0), text)


def draw_order(rng: np.random.Generator) -> Example:
    """Draws a sentence and whether two neighbouring words were exchanged (1) or not (0)."""
    words = draw_statement(rng).text(0, order=int(rng.integers(3))).split()
    wrong = int(rng.integers(2))
    if wrong:
        at = int(rng.integers(len(words) - 1))
        words[at], words[at + 1] = words[at + 1], words[at]
    return Example(wrong, " ".join(words))
