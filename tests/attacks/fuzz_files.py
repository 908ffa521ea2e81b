"""Files for the fuzzers: a bundle's description, tokens, and certificates, whole, tampered with, or torn."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trustme

from attention_patterns.bundle import BUNDLED, ModelBundle
from attention_patterns.errors import AuthenticationError, RateLimitError
from attention_patterns_service.contract.model_info import model_response_of
from attention_patterns_service.limits import Limits
from attention_patterns_service.server.access import Tokens
from attention_patterns_service.server.tls import CertificateFiles, Certificates
from tests.attacks.fuzz_seeds import Draw

SECRETS = ("cert.pem", "key.pem", "ca.pem")
# Values in JSON, some of which only a parser that is lenient reads.
_VALUES = (
    *(
        "null",
        "true",
        "0",
        "-1",
        "1",
        "1e999",
        "-1e999",
        "NaN",
        "1.5",
        "9" * 400,
        "9" * 5000,
        "2147483648",
        '""',
        '"a"',
    ),
    *('"\\u0663\\u0663"', '"\\ud800"', '"\\u001b[2J"', '"\\u202e"', f'"{"x" * 5000}"', f'"{"0" * 64}"', "[]", "{}"),
    *("[" * 50_000, '{"":' * 5000, "[[[[[[[[]]]]]]]]", '{"\\u0000": 1}', '"2026-13-45"', '"2999-01-01T00:00:00Z"'),
)


def _paths(value, path=()):
    """Yields the way to each value in an object of JSON."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from _paths(inner, (*path, key))


def tampered_json(draw, text):
    """Returns an object of JSON in which values are replaced, left out or added."""
    content, marks = json.loads(text), {}
    for number in range(draw.pick(1, 2)):
        path = draw.choose(list(_paths(content)))
        mark = f"mark {number}"
        marks[f'"{mark}"'] = draw.choose(_VALUES)
        if not path:
            return marks[f'"{mark}"'].encode()
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        if draw.once_in(5) and isinstance(holder, dict):
            del holder[path[-1]]
        else:
            holder[path[-1]] = mark
    changed = json.dumps(content)
    for mark, value in marks.items():
        changed = changed.replace(mark, value)
    return changed.encode()


@dataclass(frozen=True)
class Files:
    """Files of a kind, drawn whole, tampered with, or torn.

    Attributes:
        draw_whole: Draws the content of a good file.
        tamper: Changes it, given a ``Draw`` and the content.
    """

    draw_whole: Callable[[Draw], bytes]
    tamper: Callable[[Draw, bytes], bytes] = tampered_json

    def seed(self, number):
        """Returns the content of a good file."""
        return self.draw_whole(Draw(Random(number).randint))

    def mutate(self, data, number, scramble):
        """Returns another content; ``scramble`` changes bytes blindly."""
        draw = Draw(Random(number).randint)
        way = draw.pick(0, 9)
        if way == 0:
            return self.draw_whole(draw)
        if way < 7:
            return self.tamper(draw, self.draw_whole(draw))
        return scramble(data if way == 9 else self.draw_whole(draw))


@cache
def _holder():
    """Returns a temporary folder of good files, which goes with this process."""
    holder = TemporaryDirectory(prefix="fuzz-files-")
    folder = Path(holder.name)
    shutil.copytree(BUNDLED, folder / "model")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return holder


def _folder():
    return Path(_holder().name)


def bundle_description(_draw):
    """Returns the description of the bundled model."""
    return (BUNDLED / "bundle.json").read_bytes()


def token_entries(draw):
    """Draws a file of tokens."""
    names = ["bob", "eve", "\u00e9 x"]
    entries = [
        {"name": draw.choose(names), "sha256": f"{number:064x}", "calls_per_second": 5}
        | ({"expires": "2099-01-01T00:00:00Z"} if draw.once_in(2) else {})
        for number in range(draw.pick(1, 4))
    ]
    return json.dumps({"tokens": entries}).encode()


def secret_file(draw):
    """Draws the number of one of the files of TLS, and its content."""
    number = draw.pick(0, len(SECRETS) - 1)
    return bytes([number]) + (_folder() / SECRETS[number]).read_bytes()


def swapped_secret(draw, data):
    """Returns a file of TLS cut, doubled, or with the content of another one."""
    other = (_folder() / draw.choose(SECRETS)).read_bytes()
    place = draw.pick(1, len(data))
    return draw.choose([data[:1] + other, data[:place], data + other, data[:1], data[:place] + other])


def read_bundle(data):
    """Reads a bundle with that description, and describes it to a client."""
    folder = _folder() / "model"
    (folder / "bundle.json").write_bytes(data)
    bundle = ModelBundle.read(folder)
    return model_response_of(bundle, Limits(), 1).SerializeToString()


def read_tokens(data):
    """Reads a token file, and lets nobody in who shows another token."""
    path = _folder() / "tokens.json"
    path.write_bytes(data)
    tokens = Tokens(path)
    for name in ("bob", "eve", ""):
        try:
            tokens.charge(name)
            tokens.identify([("authorization", "Bearer guessed")])
        except (AuthenticationError, RateLimitError):
            continue
        raise ValueError("a guessed token was let in")
    return datetime.now(UTC)


def read_certificates(data):
    """Reads the files of TLS of which one is that content, as a server does at its start and for a handshake."""
    paths = {name: _folder() / name for name in SECRETS}
    changed = SECRETS[data[0] % len(SECRETS) if data else 0]
    paths[changed] = _folder() / f"changed-{changed}"
    paths[changed].write_bytes(data[1:])
    files = CertificateFiles(cert=paths["cert.pem"], key=paths["key.pem"], client_ca=paths["ca.pem"])
    return Certificates(files).credentials()


FILES = {
    "bundle.json": (Files(bundle_description), read_bundle),
    "tokens.json": (Files(token_entries), read_tokens),
    "certificates": (Files(secret_file, swapped_secret), read_certificates),
}
