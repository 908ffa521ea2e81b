"""Texts, pairs and data sets that models are run over."""

import json
import os
import subprocess
import sys

import datasets
import fsspec
import pytest

from attention_patterns.errors import InvalidSettingsError, MissingExtraError, SourceError
from attention_patterns.labelling.sources.texts.tasks import Picture, Text, UnreadText, fingerprint, text_tasks
from attention_patterns.programs.extras import install_command

MARK = b"\xef\xbb\xbf"


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def written(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return written


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where the datasets library keeps what it read; and it asks no hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def only(specs, **options):
    """The items of the only task."""
    ((_, items),) = text_tasks([specs], **options)
    return list(items)


def names(*specs, **options):
    return [name for name, _ in text_tasks(specs, **options)]


def errors(items):
    return [str(item.error) for item in items if isinstance(item, UnreadText)]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("index\tsentence1\tsentence2\tscore", ("1", "2")),
        ("id\tquestion1\tquestion2\tis_duplicate", ("1", "2")),
        ("index\tquestion\tsentence\tlabel", ("1", "2")),
        ("sentence\tsentence2\tquestion\tlabel", ("2", "0")),
        ("promptID\tpremise\thypothesis\tgold", ("1", "2")),
        ("Quality\t#1 String\t#2 String\tx", ("1", "2")),
        ("a\tb\tsentence\tlabel", ("2",)),
        ("text\tb\tc\td", ("0",)),
    ],
)
def test_the_known_columns_are_found_by_name(write, header, columns):
    path = write("dev.tsv", f"{header}\nv0\tv1\tv2\tv3\n")
    assert only(path) == [Text("dev.tsv:2", *(f"v{place}" for place in columns))]


def test_columns_may_be_named(write):
    path = write("dev.tsv", "left\tright\nice\tmelts\n")
    assert only(path, columns=["right"]) == [Text("dev.tsv:2", "melts")]
    assert only(path, columns=["right", "left"]) == [Text("dev.tsv:2", "melts", "ice")]


def test_a_tsv_begins_with_a_mark_ends_lines_as_windows_does_and_keeps_its_quotes(write):
    lines = 'Quality\t#1 String\t#2 String\r\n1\tA "ferry\tleft, late"\r\n0\tNo "bees"\tcame\r\n'
    items = only(write("dev.tsv", MARK + lines.encode()))
    assert items == [Text("dev.tsv:2", 'A "ferry', 'left, late"'), Text("dev.tsv:3", 'No "bees"', "came")]


def test_letters_that_python_takes_for_line_ends_are_in_the_text(write):
    items = only(write("dev.tsv", "sentence\tlabel\none\u2028two\x85three\x0bfour\t1\nnext\t0\n"))
    assert items == [Text("dev.tsv:2", "one\u2028two\x85three\x0bfour"), Text("dev.tsv:3", "next")]


def test_a_bad_line_of_a_tsv_fails_alone_with_its_number(write):
    lines = [b"sentence\tlabel", b"fine\t1", b"too\tmany\t1", b"few", b"", b"\t0", b" \t0", b"caf\xe9\t1", b"last\t1"]
    items = only(write("dev.tsv", b"\n".join(lines)))
    assert [item.input_id for item in items] == [f"dev.tsv:{number}" for number in (2, 3, 4, 6, 7, 8, 9)]
    assert [item.first for item in items if isinstance(item, Text)] == ["fine", "last"]
    found = errors(items)
    assert found[0] == "dev.tsv:3 holds 3 values, expected the 2 of the first line"
    assert found[1] == "dev.tsv:4 holds 1 value, expected the 2 of the first line"
    assert found[2] == "dev.tsv:6 holds an empty text in column 'sentence'"
    assert found[3] == "dev.tsv:7 holds an empty text in column 'sentence'"
    assert found[4].startswith("dev.tsv:8 is not UTF-8: ")


def test_columns_by_position_are_of_a_file_without_a_header(write):
    path = write("cola.tsv", "gj04\t1\t\tThe boat left.\ngj04\t0\t*\tBoat the left.\nbad\tline\n")
    items = only(path, columns=["3"])
    assert items[:2] == [Text("cola.tsv:1", "The boat left."), Text("cola.tsv:2", "Boat the left.")]
    assert errors(items) == ["cola.tsv:3 holds 2 values, expected the 4 of the first line"]
    assert only(path, columns=["0", "3"])[0] == Text("cola.tsv:1", "gj04", "The boat left.")


def test_a_position_outside_is_refused(write):
    path = write("cola.tsv", "gj04\t1\t\tThe boat left.\n")
    with pytest.raises(SourceError, match=r"cola\.tsv has no column '4', it has '0', '1', '2', '3'; see --columns"):
        only(path, columns=["4"])


def test_a_file_without_known_columns_is_refused_with_those_it_has(write):
    path = write("dev.tsv", f"left\tright\t{'long ' * 20}\n1\t2\t3\n")
    with pytest.raises(SourceError, match=r"known text columns, it has 'left', 'right', 'long .*\.\.\.; .*--columns"):
        only(path)
    with pytest.raises(SourceError, match=r"dev\.tsv has no column 'middle', it has 'left'"):
        only(path, columns=["middle"])
    with pytest.raises(SourceError, match=r"dev\.tsv has no column 'uid'"):
        only(path, columns=["left"], id_column="uid")


def test_a_column_that_is_there_twice_is_refused(write):
    with pytest.raises(SourceError, match=r"twice the column 'text'"):
        only(write("dev.tsv", "text\ttext\na\tb\n"))


def test_at_most_two_columns_are_read(write):
    with pytest.raises(InvalidSettingsError, match="names 3 columns, expected one, or two"):
        only(write("dev.tsv", "text\na\n"), columns=["a", "b", "c"])


@pytest.mark.parametrize(("name", "content"), [("a.tsv", b""), ("a.csv", b"\n\n"), ("a.jsonl", b""), ("a.txt", b" \n")])
def test_a_file_without_texts_is_refused(write, name, content):
    with pytest.raises(SourceError, match=r"a\.\w+ .*(is empty|holds no)"):
        only(write(name, content))


def test_a_header_that_is_not_utf_8_is_refused(write):
    with pytest.raises(SourceError, match=r"dev\.tsv:1, its first line, is not UTF-8"):
        only(write("dev.tsv", "sentence\n1\n".encode("utf-16")))


def test_a_csv_has_quotes_commas_and_line_ends_within_them(write):
    lines = 'text,label\n"one, ""two""",1\n"over\ntwo lines",0\nplain,1\n\na,b,c\n"",1\n'
    items = only(write("dev.csv", MARK + lines.replace("\n", "\r\n").encode()))
    assert items[:3] == [
        Text("dev.csv:2", 'one, "two"'),
        Text("dev.csv:3", "over\r\ntwo lines"),
        Text("dev.csv:5", "plain"),
    ]
    assert errors(items) == [
        "dev.csv:7 holds 3 values, expected the 2 of the first line",
        "dev.csv:8 holds an empty text in column 'text'",
    ]


def test_a_quote_left_open_fails_with_the_lines_that_it_swallows(write):
    items = only(write("dev.csv", b'text,label\ngood,1\nbad\xff,1\n"open,1\nmore,0\n'))
    assert items[0] == Text("dev.csv:2", "good")
    assert errors(items)[0] == "dev.csv:3 is not UTF-8"
    assert errors(items)[1].startswith("dev.csv:4 cannot be read as CSV with the lines up to 6: unexpected end")


def test_json_lines_are_objects_with_texts(write):
    lines = [
        '{"premise": "It rained.", "hypothesis": "It was wet.", "label": 1}',
        '["premise", "hypothesis"]',
        "",
        '{"premise": "cut',
        '{"premise": "alone"}',
        '{"premise": null, "hypothesis": "x"}',
        '{"premise": ["x"], "hypothesis": "x"}',
        '{"premise": "x", "hypothesis": 7}',
        '{"premise": "half \\ud800", "hypothesis": "x"}',
        "[" * 100_000,
        '{"hypothesis": "last", "premise": "line"}',
    ]
    path = write("dev.jsonl", "\n".join(lines).encode() + b"\n\xff\n")
    items = only(path)
    assert [item for item in items if isinstance(item, Text)] == [
        Text("dev.jsonl:1", "It rained.", "It was wet."),
        Text("dev.jsonl:11", "line", "last"),
    ]
    for error, expected in zip(
        errors(items),
        [
            "dev.jsonl:2 holds ['premise', 'hypothesis'], expected a JSON object",
            "dev.jsonl:4 is not JSON: ",
            "dev.jsonl:5 has no column 'hypothesis', it has 'premise'",
            "dev.jsonl:6 holds an empty text in column 'premise'",
            "dev.jsonl:7 holds ['x'] in column 'premise', expected a text",
            "dev.jsonl:8 holds 7 in column 'hypothesis', expected a text",
            "dev.jsonl:9 holds half a surrogate pair",
            "dev.jsonl:10 is not JSON: ",
            "dev.jsonl:12 is not UTF-8: ",
        ],
        strict=True,
    ):
        assert error.startswith(expected)


def test_json_that_is_not_lines_is_refused(write):
    with pytest.raises(SourceError, match=r"list\.json holds no line that is a JSON object, expected JSON lines"):
        only(write("list.json", json.dumps([{"text": "a"}], indent=1)))


def test_plain_text_holds_a_text_or_a_pair_a_line(write):
    items = only(write("a.txt", MARK + b"one\r\n\nleft\tright\n \t \nx\t\na\tb\tc\n\xe9\n"))
    assert items[:2] == [Text("a.txt:1", "one"), Text("a.txt:3", "left", "right")]
    assert errors(items)[:2] == [
        "a.txt:5 holds an empty text, expected one text or a pair",
        "a.txt:6 holds 3 tab-separated texts, expected one text or a pair",
    ]
    assert errors(items)[2].startswith("a.txt:7 is not UTF-8: ")


def test_ids_come_from_a_column(write):
    path = write("dev.tsv", "idx\tsentence\nq1\tone\n\ttwo\nq3\tthree\n")
    items = only(path, id_column="idx")
    assert [item.input_id for item in items] == ["q1", "dev.tsv:3", "q3"]
    assert errors(items) == ["dev.tsv:3 holds an empty id in column 'idx'"]
    path = write("dev.jsonl", '{"idx": 7, "text": "one"}\n{"idx": 1.5, "text": "two"}\n')
    assert [item.input_id for item in only(path, id_column="idx")] == ["7", "dev.jsonl:2"]


def test_an_id_that_comes_twice_is_refused_with_both_lines(write):
    path = write("dev.tsv", "idx\tsentence\nq1\tone\nq2\ttwo\nq1\tthree\n")
    with pytest.raises(SourceError, match=r"dev\.tsv:2 and dev\.tsv:4 have the same id, 'q1'"):
        only(path, id_column="idx")


def test_tasks_are_named_after_files_then_folders_then_both(write, tmp_path):
    one, two = write("QQP/dev.tsv", "text\na\n"), write("MRPC/dev.tsv", "text\nb\n")
    assert names(one) == ["dev"]
    assert names(one, two) == ["QQP", "MRPC"]
    write("QQP/train.tsv", "text\na\n")
    assert sorted(names(str(tmp_path))) == ["MRPC", "QQP", "train"]
    write("MRPC/train.tsv", "text\na\n")
    assert sorted(names(str(tmp_path))) == ["MRPC/dev", "MRPC/train", "QQP/dev", "QQP/train"]
    assert sorted(names(str(tmp_path / "*" / "dev.tsv"))) == ["MRPC", "QQP"]


def test_a_name_makes_one_task_of_all_files(write, tmp_path):
    write("QQP/dev.tsv", "text\na\n")
    write("MRPC/dev.tsv", "text\nb\n")
    ((name, items),) = text_tasks([f"glue={tmp_path}"])
    assert name == "glue"
    assert sorted(item.input_id for item in items) == ["MRPC/dev.tsv:2", "QQP/dev.tsv:2"]


def test_two_tasks_of_one_name_are_refused(write):
    one, two = write("QQP/dev.tsv", "text\na\n"), write("MRPC/dev.tsv", "text\nb\n")
    with pytest.raises(SourceError, match=r"would both be the task 'x'; name one of them: NAME="):
        text_tasks([f"x={one}", f"x={two}"])
    with pytest.raises(SourceError, match="would both be the task"):
        text_tasks([one, one])


def test_an_equals_sign_in_a_path_is_no_name(write, monkeypatch, tmp_path):
    assert names(write("lang=en/a.txt", "one\n")) == ["a"]
    write("b=c.txt", "one\n")
    monkeypatch.chdir(tmp_path)
    assert names("b=c.txt") == ["b=c"]


def test_texts_in_what_is_no_regular_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "x.txt")
    with pytest.raises(SourceError, match=r"x\.txt is a FIFO, expected a regular file"):
        text_tasks([str(tmp_path)])


def test_pictures_of_a_folder_are_one_task_beside_its_texts(write, tmp_path):
    for name in ("zoo/b.PNG", "zoo/a.jpg", "zoo/deep/a.jpg"):
        write(name, b"not looked at here")
    write("zoo/notes.txt", "one\n")
    write("zoo/archive.zip", b"")
    tasks = dict(text_tasks([str(tmp_path / "zoo")]))
    assert set(tasks) == {"zoo", "notes"}
    assert {item.input_id for item in tasks["zoo"]} == {"a.jpg", "b.PNG", "deep/a.jpg"}
    assert all(isinstance(item, Picture) and fsspec.open(item.url).open().read() for item in tasks["zoo"])
    assert names(str(tmp_path / "zoo" / "*.jpg")) == names(str(tmp_path / "zoo" / "a.jpg")) == ["a"]
    assert names(str(tmp_path / "zoo" / "a.jpg")) == ["a"]


def test_files_are_read_at_urls(write, tmp_path):
    with fsspec.open("memory://corpora/QQP/dev.tsv", "wb") as file:
        file.write(b"text\nin memory\n")
    assert text_tasks(["memory://corpora/QQP/dev.tsv"]) == (("dev", (Text("dev.tsv:2", "in memory"),)),)
    path = write("here.txt", "on disk\n")
    assert text_tasks([f"mine=file://{path}"]) == (("mine", (Text("here.txt:1", "on disk"),)),)


def test_names_of_files_that_are_not_utf_8_are_shown_so_that_they_can_be_written(tmp_path):
    path = tmp_path / "odd" / os.fsdecode(b"caf\xe9.txt")
    path.parent.mkdir()
    path.write_bytes(b"one\n")
    ((name, items),) = text_tasks([str(tmp_path / "odd")])
    assert (name, items) == ("caf\\udce9", (Text("caf\\udce9.txt:1", "one"),))
    with pytest.raises(SourceError, match="is not UTF-8"):
        text_tasks([str(path)])


def test_what_is_not_there_is_refused(tmp_path):
    for spec in (str(tmp_path / "nothing.tsv"), str(tmp_path), str(tmp_path / "*.tsv"), "memory://no/such.txt"):
        with pytest.raises(SourceError):
            text_tasks([spec])


def save_json_lines(folder, **splits):
    """A data set as the hub keeps it: a folder of files named by split."""
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"datasets:{folder}"


@pytest.mark.usefixtures("cached")
def test_a_data_set_s_rows_are_texts(tmp_path):
    rows = [{"idx": 10, "sentence1": "one", "sentence2": "two"}, {"idx": 11, "sentence1": "three", "sentence2": None}]
    spec = save_json_lines(tmp_path / "pairs", train=rows[:1] * 3, validation=rows)
    ((name, items),) = text_tasks([spec])
    assert name == "pairs"
    assert items[0] == Text("validation[0]", "one", "two")
    assert errors(items) == ["validation[1] holds an empty text in column 'sentence2'"]
    assert only(f"{spec}:train", columns=["sentence1"])[2] == Text("train[2]", "one")
    assert only(f"{spec}:train[:1]", columns=["sentence1"]) == [Text("train[:1][0]", "one")]
    assert only(f"x={spec}", id_column="idx")[0] == Text("10", "one", "two")
    assert names(f"{spec}:train", spec, columns=["sentence1"]) == ["pairs:train", "pairs"]


@pytest.mark.usefixtures("cached")
def test_the_default_split_is_validation_else_test_else_train(tmp_path):
    rows = [{"text": "one"}]
    assert only(save_json_lines(tmp_path / "a", train=rows, test=rows)) == [Text("test[0]", "one")]
    assert only(save_json_lines(tmp_path / "b", train=rows)) == [Text("train[0]", "one")]


@pytest.mark.usefixtures("cached")
def test_a_data_set_saved_to_disk_is_read(tmp_path):
    table = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]})
    table.with_format("numpy").save_to_disk(str(tmp_path / "table"))
    assert [item.first for item in only(f"datasets:{tmp_path / 'table'}")] == ["one", "two"]
    datasets.DatasetDict({"odd": table}).save_to_disk(str(tmp_path / "splits"))
    assert only(f"datasets:{tmp_path / 'splits'}:odd")[1] == Text("odd[1]", "two")
    with pytest.raises(SourceError, match=r"has the splits odd, expected one of validation, .*; name one: .*:odd"):
        only(f"datasets:{tmp_path / 'splits'}")
    with pytest.raises(SourceError, match=r"has the splits odd, expected 'even'"):
        only(f"datasets:{tmp_path / 'splits'}:even")


@pytest.mark.usefixtures("cached")
def test_a_data_set_that_cannot_be_read_is_refused(tmp_path):
    spec = save_json_lines(tmp_path / "odd", train=[{"left": "one", "count": 3}])
    with pytest.raises(SourceError, match=r"odd, split 'train', has none of the known text columns, it has 'left'"):
        only(spec)
    with pytest.raises(SourceError, match=r"odd cannot be read: .*dev"):
        only(f"{spec}:dev")
    assert errors(only(spec, columns=["count"])) == ["train[0] holds 3 in column 'count', expected a text"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty cannot be read"):
        only(f"datasets:{tmp_path / 'empty'}")
    save_json_lines(tmp_path / "damaged", train=[])
    (tmp_path / "damaged" / "train.jsonl").write_bytes(b'{"text": \xff')
    with pytest.raises(SourceError, match=r"damaged cannot be read"):
        only(f"datasets:{tmp_path / 'damaged'}")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("name", ["nobody_made_this", "nobody/made-this", "nobody/made/this", "a b"])
def test_a_data_set_out_of_reach_is_refused_with_its_name(name):
    with pytest.raises(SourceError, match=f"datasets:{name} "):
        text_tasks([f"datasets:{name}"])


@pytest.mark.parametrize("spec", ["datasets:", "datasets::train", "datasets:/"])
def test_a_data_set_without_a_name_is_refused(spec):
    with pytest.raises(SourceError, match="names no data set"):
        text_tasks([spec])


def test_data_sets_need_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    with pytest.raises(MissingExtraError) as missing:
        text_tasks(["datasets:glue/qqp"])
    assert str(missing.value).startswith("datasets:glue/qqp needs the extra 'datasets' (datasets is not installed): ")
    assert str(missing.value).endswith(install_command("datasets"))


def test_reading_files_imports_no_heavy_library(write):
    program = f"""
import sys
from attention_patterns.labelling.sources.texts.tasks import text_tasks
text_tasks([{write("a.txt", "one")!r}])
print(sorted({{"datasets", "torch", "transformers", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_fingerprint_changes_with_any_item(write):
    def print_of(content):
        return fingerprint(text_tasks([write("a.txt", content)]))["a"]

    first = print_of("one\ttwo\n")
    assert len(first) == 64
    assert print_of("one\ttwo\n") == first
    others = [
        print_of(content) for content in ("one two\n", "\none\ttwo\n", "two\tone\n", "one\ttwo\nthree\n", "a\tb\tc")
    ]
    assert len({first, *others}) == 6
