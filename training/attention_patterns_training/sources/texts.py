"""The source texts whose attention maps are labelled: written for this project, made by its programs, or passages.

Splits are made of whole texts: all maps of one text lie in one split. Passages of Debian's documentation are read when
maps are collected, and are not stored.
"""

from dataclasses import dataclass

import numpy as np

from attention_patterns_training.sources import sentences


@dataclass(frozen=True)
class SourceText:
    """One input of a model: a single text, or a pair of texts.

    Attributes:
        text_id: Name, unique and the same in every run.
        kind: Kind of text, such as "pair" or "code"; each kind is dealt to the splits by itself.
        first: The text, or the first of a pair.
        second: The second of a pair.
    """

    text_id: str
    kind: str
    first: str
    second: str | None = None


def _table(rows: int) -> str:
    """Returns a price table as plain text, one row per line."""
    wares = ("rope", "nails", "lamp oil", "canvas", "tar", "biscuit", "copper wire", "glass", "salt", "beeswax")
    rows_of_text = (
        f"{wares[i % len(wares)]} | {7 + 13 * i % 41} | {3 + 17 * i % 29}.50 | {'north' if i % 3 else 'south'}"
        for i in range(rows)
    )
    return "\n".join(["ware | crates | price | port", *rows_of_text])


def _numbered_steps(count: int) -> str:
    """Returns a work instruction of numbered, similar steps."""
    verbs = ("open", "rinse", "dry", "weigh", "label", "close", "shake", "store")
    parts = ("the first jar", "the filter", "the glass plate", "both valves", "the sample", "the lid", "the tray")
    return " ".join(f"{i + 1}. {verbs[i % 8].capitalize()} {parts[i * 3 % 7]}." for i in range(count))


_SINGLE = (
    "The ferry leaves at dawn.",
    "Nobody had watered the plants since Thursday.",
    "She repaired the clock with a hairpin and a great deal of patience.",
    "When the river froze, the children walked to school across the ice.",
    "The committee rejected the proposal because it ignored the cost of maintenance.",
    "A fox crossed the yard, stopped at the gate, looked back, and vanished into the hedge.",
    "He said that he would call, but the telephone stayed silent all evening.",
    "The soup is too salty, the bread is stale, and the waiter has gone home.",
    "Under the old bridge, where the water runs slowly, herons wait for fish.",
    "The engineers measured the vibration of the tower in strong wind and found it well below the limit.",
    "Her grandmother's recipe asks for three eggs, a cup of flour, a pinch of salt and no hurry at all.",
    "The museum that burned down last winter will be rebuilt on the other side of the harbour next year.",
    "What did the carpenter forget to bring to the workshop on Monday morning?",
    "Although the data were noisy, the second experiment confirmed what the first had suggested: the alloy bends before it breaks.",
    "The map shows two villages, a mill, one narrow road through the marsh, and a chapel that no longer exists.",
    "Not one of the nine lamps in the corridor worked, so the guard carried a candle from door to door and counted his steps.",
)
_PAIR = (
    ("The shop opens at nine.", "You can buy stamps there."),
    ("The dog sleeps by the stove.", "The dog is sleeping next to the stove."),
    ("How do I remove rust from a knife?", "What is the best way to clean a rusty blade?"),
    ("A man is mending a net on the beach.", "A man is mending a net on the pier."),
    ("The bakery sold two hundred loaves on Saturday.", "On Saturday the bakery sold more bread than ever."),
    ("The train was late because of snow on the line.", "The train arrived on time."),
    ("Which planet has the longest day?", "Venus turns so slowly that its day is longer than its year."),
    ("The new bridge carries cyclists and trams but no cars.", "Cars are not allowed on the new bridge."),
    ("Two women carry a ladder through the orchard.", "Somebody is picking apples in the garden behind the house."),
    ("I have never seen the lake so calm.", "The stock market closed slightly lower today."),
    (
        "The violin was made in 1821 from spruce and maple.",
        "Its maker lived above a cheese shop and never signed his work.",
    ),
    (
        "Why does bread rise when it is baked?",
        "Yeast turns sugar into gas, and the gas stretches the dough until the heat sets it.",
    ),
    ("The mayor promised to plant a thousand trees.", "The mayor promised to plant a thousand trees by spring."),
    (
        "Pour the plaster slowly and tap the mould to free the bubbles.",
        "If the plaster is poured too fast, air stays inside.",
    ),
    ("The cat ignored the mouse.", "The mouse ignored the cat."),
    ("Our neighbour keeps bees on the roof of the library.", "The library closes at six."),
    (
        "Is it safe to swim in the canal?",
        "The water is tested every week in summer, and so far it has always been clean.",
    ),
    ("The first draft of the report was forty pages long and had no summary.", "The final report is short."),
    ("Red paint dries faster than blue.", "Blue paint dries more slowly than red paint does."),
    (
        "The letter was posted in June and arrived in October, wet and without its stamp.",
        "It took four months to be delivered.",
    ),
    (
        "Wind turbines stand along the ridge above the village.",
        "The villagers own a third of them and share the income.",
    ),
    ("Can goats climb trees?", "In dry regions some goats climb into the branches to reach the fruit."),
    (
        "The choir rehearses in the old cinema on Tuesdays.",
        "On Tuesdays the old cinema is used for rehearsals of the choir.",
    ),
    ("He opened the window.", "Rain came in."),
)
_LIST = (
    "apples, pears, plums, cherries, quinces, figs, grapes, melons",
    "hammer; saw; chisel; plane; level; square; clamp; file; drill; vise",
    "Buy milk. Call Anna. Fix the gate. Pay the rent. Feed the cat. Post the letter.",
    "one two three four five six seven eight nine ten eleven twelve",
    "red red red blue blue blue green green green red blue green",
    "Oslo (Norway), Riga (Latvia), Porto (Portugal), Graz (Austria), Basel (Switzerland), Ghent (Belgium)",
)
_CODE = (
    "def area(width, height):\n    return width * height",
    "for (int i = 0; i < n; i++) { total += prices[i] * counts[i]; }",
    "SELECT name, COUNT(*) FROM orders WHERE year = 2021 GROUP BY name ORDER BY name;",
    "if not path.exists():\n    raise ValueError(f'{path} is missing')\nwith path.open() as file:\n    rows = file.read().split(';')",
    '{"id": 17, "tags": ["a", "b", "c"], "size": {"width": 3, "height": 4}}',
    "x = a + b\ny = a - b\nz = x * y\nw = z / x\nprint(x, y, z, w)",
)
_OTHER_LANGUAGE = (
    "Der Zug nach Norden hält heute nicht an diesem Bahnhof.",
    "La boulangère ferme sa boutique à midi et rouvre à quatre heures.",
    "El puente viejo fue construido con piedras del río y sin un solo clavo.",
    "Il gatto dorme sulla sedia, il cane sotto il tavolo, la nonna davanti alla stufa.",
    "Kissa istuu ikkunalla ja katsoo sadetta.",
    "W ogrodzie za domem rosną trzy stare jabłonie.",
)
_PARAGRAPH = (
    "The lighthouse had no keeper any more. A timer lit the lamp at dusk and put it out at dawn, and once a month "
    "a technician came by boat to wipe the lens. He said the work was easy. He said the silence was not. On clear "
    "nights he could see the lamps of the fishing fleet, and he counted them, as the keepers before him had done.",
    "To bind a book by hand you need paper, thread, glue, two boards and cloth. Fold the sheets, pierce the folds, and "
    "sew the sections one to the next. Let the glue on the spine dry for a night. Only then cut the boards, cover them "
    "with cloth, and press the book under a weight. A book bound in this way opens flat and can be mended.",
    "The survey was carried out in three towns. In the first, people were asked at the market; in the second, by post; "
    "in the third, by telephone. The answers differed so much between the towns that the authors at first suspected an "
    "error. There was none. People answer a stranger at the market in one way and a letter from an office in another.",
)
_PARAGRAPH_PAIR = (
    (
        "The valley was flooded when the dam was finished. Three villages went under water, and their people were moved to "
        "new houses on the slope. In dry summers the spire of a church comes out of the lake.",
        "Which building can be seen when the water of the reservoir is low? People still visit it by rowing boat.",
    ),
    (
        "Cheese from this region ripens in caves. The air there is cold and damp in every season, and the rind grows a grey "
        "mould that is brushed off each week by hand.",
        "The caves are cold in winter and warm in summer, and the cheese is never touched until it is sold.",
    ),
    (
        "A pendulum clock loses time in summer because its rod grows longer in the heat. Clockmakers learned to build rods "
        "from two metals that expand against each other.",
        "Rods of two metals keep the length of the pendulum the same, so that the clock runs evenly through the year.",
    ),
    (
        "Our committee met four times. It read sixty letters, heard nine witnesses and visited the site twice.",
        "Our committee met five times. It read seventy letters, heard nine witnesses and visited the site once.",
    ),
)


def make_texts() -> list[SourceText]:
    """Returns texts by the grammar of ``sentences``: single ones, pairs, passages of 2 to 21 sentences, their pairs."""
    rng = np.random.default_rng(20260102)
    texts = [SourceText(f"made-single-{i:03}", "made single", sentences.draw_opinion(rng).first) for i in range(60)]
    for i in range(140):
        example = sentences.draw_relation(rng) if i % 3 else sentences.draw_answer(rng)
        texts.append(SourceText(f"made-pair-{i:03}", "made pair", example.first, example.second))
    passages = [sentences.draw_passage(rng, 2 + i % 20) for i in range(40)]
    texts += [SourceText(f"made-passage-{i:03}", "made passage", passage) for i, passage in enumerate(passages)]
    for i in range(40):
        first, second = sentences.draw_passage(rng, 1 + i % 8), sentences.draw_passage(rng, 1 + i % 5)
        texts.append(SourceText(f"made-passages-{i:03}", "made passages", first, second))
    return texts


def documentation_texts(paragraphs: list[str]) -> list[SourceText]:
    """Returns texts of given paragraphs: short ones, pairs of short ones, and long ones of 500 to 2,600 characters."""
    rng = np.random.default_rng(20260103)
    shuffled = iter(rng.permutation(np.array(paragraphs, dtype=object)).tolist())
    texts = [SourceText(f"documentation-{i:03}", "documentation", next(shuffled)[:160]) for i in range(30)]
    pairs = [(next(shuffled)[:110], next(shuffled)[:110]) for _ in range(40)]
    texts += [SourceText(f"documentation-pair-{i:03}", "documentation pair", *pair) for i, pair in enumerate(pairs)]
    for i in range(70):
        passage = [next(shuffled)]
        while sum(map(len, passage)) < 500 + 30 * i:
            passage.append(next(shuffled))
        half = (len(passage) - 1) // 2 * (i % 2)  # every second one is a pair, if it is long enough
        first, second = " ".join(passage[:half] or passage), " ".join(passage[half:]) if half else None
        texts.append(SourceText(f"documentation-long-{i:03}", "documentation long", first, second))
    return texts


def source_texts() -> list[SourceText]:
    """Returns the texts written for this project, in a fixed order."""
    texts = [SourceText(f"single-{i:02}", "single", t) for i, t in enumerate(_SINGLE)]
    texts += [SourceText(f"pair-{i:02}", "pair", a, b) for i, (a, b) in enumerate(_PAIR)]
    texts += [SourceText(f"list-{i:02}", "list", t) for i, t in enumerate(_LIST)]
    texts += [SourceText(f"code-{i:02}", "code", t) for i, t in enumerate(_CODE)]
    texts += [SourceText(f"language-{i:02}", "language", t) for i, t in enumerate(_OTHER_LANGUAGE)]
    texts += [SourceText(f"paragraph-{i:02}", "paragraph", t) for i, t in enumerate(_PARAGRAPH)]
    texts += [SourceText(f"long-pair-{i:02}", "pair", a, b) for i, (a, b) in enumerate(_PARAGRAPH_PAIR)]
    texts += [SourceText(f"table-{i:02}", "table", _table(rows)) for i, rows in enumerate((3, 6, 12))]
    texts += [SourceText(f"steps-{i:02}", "list", _numbered_steps(n)) for i, n in enumerate((5, 9, 16))]
    texts.append(SourceText("table-pair-00", "pair", _table(4), "How much does a crate of nails cost in the north?"))
    return texts
