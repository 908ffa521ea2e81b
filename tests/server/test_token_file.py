"""The token file: made, read, changed by commands, and refused where it holds anything but tokens."""

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client
from attention_patterns_service.server.access import Tokens
from attention_patterns_service.server.token_file import add_token, digest_of, read_tokens
from tests.helpers.servers import run, until
from tests.helpers.tokens import new_token, token_command

DIGITS = "0" * 64
ENTRY = {"name": "a", "sha256": DIGITS, "calls_per_second": 1}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.json"


def admitted(access, secret):
    """The name of the caller who shows a token, or why nobody is let in."""
    try:
        return access.identify([("authorization", f"Bearer {secret}")])
    except errors.AuthenticationError as error:
        return str(error)


def test_the_file_holds_hashes_and_names_only(path):
    token = new_token(path, "alice")
    assert token not in path.read_text()
    (kept,) = json.loads(path.read_text())["tokens"]
    assert kept == {"name": "alice", "sha256": digest_of(token), "calls_per_second": 100}


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_is_its_owner_s_alone_whatever_lay_there_before(path, tmp_path):
    new_token(path, "alice")
    assert mode_of(path) == 0o600
    path.chmod(0o644)
    new_token(path, "bob")
    assert mode_of(path) == 0o600
    target = tmp_path / "elsewhere" / "real.json"
    target.parent.mkdir()
    path.rename(target)
    target.chmod(0o666)
    path.symlink_to(target)
    (target.parent / ".real.json.partial").symlink_to(tmp_path / "trap")  # of somebody who expects a secret there
    new_token(path, "eve")
    assert path.is_symlink()
    assert mode_of(target) == 0o600
    assert [token.name for token in read_tokens(target)] == ["alice", "bob", "eve"]
    assert not (tmp_path / "trap").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another")
def test_the_file_of_another_owner_stays_theirs(path):
    new_token(path, "alice")
    os.chown(path, 12345, -1)
    new_token(path, "bob")
    assert (path.stat().st_uid, mode_of(path)) == (12345, 0o600)


def test_a_token_of_the_same_name_is_replaced_and_a_file_that_cannot_be_read_stays(path):
    first, other, second = new_token(path, "bob"), new_token(path, "eve"), new_token(path, "bob")
    access = Tokens(path)
    assert [admitted(access, shown) for shown in (other, second)] == ["eve", "bob"]
    assert admitted(access, first).startswith("the token with SHA-256")
    path.write_text("{")
    done = run("token", "add", "bob", env=os.environ | {"ATTENTION_SERVE_TOKENS": str(path)})
    assert (done.returncode, path.read_text()) == (1, "{")
    assert done.stderr.startswith(f"attention-serve token add: token file {path} cannot be read")


def test_two_tokens_overlap_while_one_takes_over(path):
    first = new_token(path, "bob", "--calls-per-second=7")
    second = new_token(path, "bob", "--overlap=24h", "--expires=30d")
    assert [admitted(Tokens(path), shown) for shown in (first, second)] == ["bob", "bob"]
    old, new = read_tokens(path)
    now = datetime.now(UTC)
    assert timedelta(hours=23) < old.expires - now < timedelta(hours=25)
    assert timedelta(days=29) < new.expires - now < timedelta(days=31)
    assert (old.calls_per_second, new.calls_per_second) == (7, 7)
    new_token(path, "bob", "--overlap=30d", "--calls-per-second=9")  # an earlier end stays
    assert [token.expires for token in read_tokens(path)[:2]] == [old.expires, new.expires]
    assert {token.calls_per_second for token in read_tokens(path)} == {9}
    third = new_token(path, "bob")  # after a leak: all that went before is refused
    access = Tokens(path)
    assert [admitted(access, shown) == "bob" for shown in (first, second, third)] == [False, False, True]


def test_a_token_is_refused_from_its_end_on(classifier, path):
    secret = new_token(path, "bob", "--expires=1m")
    content = json.loads(path.read_text())
    content["tokens"][0]["expires"] = (datetime.now(UTC) + timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    path.write_text(json.dumps(content))
    with (
        AttentionServer(classifier, port=0, access=Tokens(path)) as server,
        Client(server.endpoint, token=secret) as client,
    ):

        def refusal():
            try:
                return client.model() and None
            except errors.AuthenticationError as error:
                return str(error)

        assert re.match(r"the token of bob expired at 2\d{3}-\S+Z", until(refusal))


def test_tokens_are_listed_and_removed(path):
    secret = new_token(path, "alice", "--expires=2999-12-31")
    new_token(path, "bob", "--calls-per-second=5")
    path.write_text(
        json.dumps({"tokens": [*json.loads(path.read_text())["tokens"], ENTRY | {"expires": "2020-01-01T00:00:00Z"}]})
    )
    lines = [line.split() for line in token_command("list", f"--tokens={path}").stdout.splitlines()]
    assert lines[1] == ["alice", "100", "2999-12-31T00:00:00Z", digest_of(secret)[:8]]
    assert lines[2][:3] == ["bob", "5", "never"]
    assert lines[3] == ["a", "1", "2020-01-01T00:00:00Z,", "expired", "0" * 8]
    access = Tokens(path)
    for name in ("alice", "bob", "a"):
        assert token_command("remove", name, f"--tokens={path}").stdout == f"removed 1 token of {name}\n"
    access.reload()  # the last one is revoked as well
    assert admitted(access, secret).startswith("the token with SHA-256")
    with pytest.raises(errors.SourceError, match="holds no token, expected at least one: attention-serve token add"):
        Tokens(path)
    done = run("token", "remove", "alice", "--tokens", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"token file {path} holds no token of 'alice'; its names: none\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--expires=soon"], "--expires is 'soon', expected minutes, hours or days such as 90m"),
        (["--expires=2020-01-01"], "--expires is 2020-01-01, which is over"),
        (["--expires=0d"], "--expires is '0d'"),
        (["--expires=99999999999d"], "--expires is '99999999999d'"),
        (["--overlap=forever"], "--overlap is 'forever'"),
        (["--calls-per-second=0"], "--calls-per-second"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(path, options, message):
    done = token_command("add", "bob", f"--tokens={path}", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "a" * 101, "a\nb", "a\x1b[31m", "\u202ebob"])
def test_a_name_that_cannot_be_shown_is_refused(path, name):
    done = token_command("add", name, f"--tokens={path}")
    assert done.exit_code == 1
    assert "the new token's name is" in done.stderr


def test_commands_that_change_the_file_at_once_all_count(path):
    """In threads of this process, where they meet more often than commands that take a second to begin."""
    names = [f"caller-{n}" for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: add_token(path, name), names))
    assert {token.name for token in read_tokens(path)} == set(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: tokens.json: Expecting value"),
        (b"\xff", "cannot be read: tokens.json: .*decode"),
        (b"[" * 200_000, "cannot be read: tokens.json is nested too deeply"),
        (b" " * (1 << 20) + b"{}", "has 1048578 bytes, expected at most 1048576"),
        (b"9" * 5000, "cannot be read: tokens.json: Exceeds the limit"),
        (b"[]", r"it is \[\], expected an object"),
        (b'{"tokens": {}}', "tokens is {}, expected a list of objects"),
        (b'{"tokens": [], "token": []}', "the field 'token' is not known, expected tokens"),
        (b'{"tokens": [1]}', "expected a list of objects"),
        *[
            (json.dumps({"tokens": [entry]}).encode(), f"of tokens\\[0\\] {message}")
            for entry, message in [
                ({}, "name is missing, expected 1 to 100 printable characters"),
                (ENTRY | {"expire": "2999-01-01T00:00:00Z"}, "the field 'expire' is not known"),
                (ENTRY | {"name": ""}, "name is '', expected 1 to 100 printable characters"),
                (ENTRY | {"name": 5}, "name is 5"),
                (ENTRY | {"name": "a" * 101}, "name is 'aaa"),
                (ENTRY | {"name": "\u202e"}, r"name is '\\u202e'"),
                (ENTRY | {"sha256": "abc"}, "sha256 is 'abc', expected 64 digits from 0 to f"),
                (ENTRY | {"sha256": "A" * 64}, "sha256 is 'AAA"),
                (ENTRY | {"sha256": "٣" * 64}, "sha256 is '٣٣"),
                (ENTRY | {"sha256": DIGITS + "\n"}, "sha256 is"),
                (ENTRY | {"calls_per_second": 0}, "calls_per_second is 0, expected an integer from 1 to 1000000"),
                (ENTRY | {"calls_per_second": 10**4000}, "calls_per_second is 1000"),
                (ENTRY | {"calls_per_second": float("inf")}, "calls_per_second is inf"),
                (ENTRY | {"calls_per_second": float("nan")}, "calls_per_second is nan"),
                (ENTRY | {"calls_per_second": 1.5}, "calls_per_second is 1.5"),
                (ENTRY | {"calls_per_second": True}, "calls_per_second is True"),
                (ENTRY | {"calls_per_second": "1"}, "calls_per_second is '1'"),
                (ENTRY | {"expires": None}, "expires is None"),
                (ENTRY | {"expires": 5}, "expires is 5, expected a time in UTC such as 2027-01-31T00:00:00Z"),
                (ENTRY | {"expires": "2027-02-31T00:00:00Z"}, "expires is '2027-02-31T00:00:00Z'"),
                (ENTRY | {"expires": "2027-01-31T00:00:00+01:00"}, "expires is"),
                (ENTRY | {"expires": "2027-01-31"}, "expires is"),
            ]
        ],
        (b'{"tokens": [{"name": "a", "sha256": "%s", "calls_per_second": 1e999}]}' % DIGITS.encode(), "is inf"),
        (json.dumps({"tokens": [ENTRY, ENTRY | {"name": "b"}]}).encode(), r"tokens\[1\] has the sha256 of tokens\[0\]"),
        (
            json.dumps({"tokens": [ENTRY, ENTRY | {"sha256": "1" * 64, "calls_per_second": 2}]}).encode(),
            "tokens of a have 1 and 2 calls_per_second, expected one rate",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_a_file_that_is_broken_is_named_and_changes_nothing(path, content, message):
    secret = new_token(path, "alice")
    access = Tokens(path)
    path.write_bytes(content)
    for read in (access.reload, lambda: Tokens(path)):
        with pytest.raises(errors.SourceError, match=f"^token file {re.escape(str(path))}:? .*{message}") as refused:
            read()
        assert len(str(refused.value)) < 500
    assert admitted(access, secret) == "alice"


def test_what_is_no_regular_file_is_refused(path, tmp_path):
    os.mkfifo(path)
    for other in (path, tmp_path, Path("/dev/zero")):
        with pytest.raises(errors.SourceError, match="cannot be read"):
            read_tokens(other)
    with pytest.raises(errors.SourceError, match="No such file"):
        read_tokens(tmp_path / "none")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(DIGITS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tokens", *ENTRY, "expires"]), inner),
    max_leaves=8,
)
FIELDS = {name: VALUES | st.just(value) for name, value in ENTRY.items()}
ENTRIES = st.fixed_dictionaries(FIELDS, optional={"expires": VALUES})
FILES = (VALUES | st.fixed_dictionaries({"tokens": st.lists(ENTRIES | VALUES, max_size=3)})).map(
    lambda value: json.dumps(value).encode()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES | st.binary(max_size=50))
def test_whatever_a_file_holds_it_is_tokens_or_an_error(path, content):
    path.write_bytes(content)
    try:
        tokens = read_tokens(path)
    except errors.SourceError:
        return
    assert all(re.fullmatch("[0-9a-f]{64}", token.sha256) and token.calls_per_second >= 1 for token in tokens)
