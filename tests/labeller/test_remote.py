"""Dumps behind URLs: a real S3 server on this machine, a real HTTP server, fsspec's memory and file systems."""

import functools
import gc
import http.server
import io
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from fsspec.core import url_to_fs
from moto.server import ThreadedMotoServer

from attention_patterns.errors import MissingExtraError, SourceError
from attention_patterns.labelling.sources.dumps.plan import dump_tasks
from attention_patterns.labelling.sources.files import find_files, open_file
from attention_patterns.labelling.sources.source import FailedInput, MeasuredInput
from attention_patterns.programs.extras import install_command
from tests.labeller.test_dumps import ENOUGH, FORMATS, assert_as_classified, attention, outcomes, save, source

S3 = install_command("s3")
VALUES = attention(3, 2, 3, 9, 9, dtype=np.float16)


@pytest.fixture(scope="module", autouse=True)
def _closed():
    """Has the connections that fsspec keeps for later closed while its thread is still there."""
    yield
    for protocol in ("s3", "http"):
        fsspec.get_filesystem_class(protocol).clear_instance_cache()
    gc.collect()


@pytest.fixture(scope="module")
def s3():
    """The URL of a bucket on a moto server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        environment.setenv("AWS_ACCESS_KEY_ID", "nobody")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("dumps")
        yield "s3://dumps"
    server.stop()


@pytest.fixture(params=["s3", "memory", "file"])
def place(request, tmp_path):
    """A folder's URL in each file system."""
    if request.param == "file":
        return f"file://{tmp_path}/there"
    name = re.sub(r"\W", "_", request.node.name)
    root = request.getfixturevalue("s3") if request.param == "s3" else "memory://dumps"
    return f"{root}/{name}"


def put(local, url):
    system, root = url_to_fs(url)
    system.makedirs(root, exist_ok=True)
    if local.is_dir():
        for path in local.rglob("*"):
            if path.is_file():
                target = f"{root}/{local.name}/{path.relative_to(local).as_posix()}"
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
                system.pipe(target, path.read_bytes())
    else:
        system.pipe(f"{root}/{local.name}", local.read_bytes())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_from_everywhere(tmp_path, classifier, place, name):
    local = save(tmp_path / "here", name, VALUES)
    put(local, place)
    found = outcomes(source(f"{place}/{local.name}"), classifier)
    assert list(found) == [f"{local.name}[{n}]" for n in range(3)]
    for one, expected in zip(found.values(), VALUES, strict=True):
        assert_as_classified(one, classifier, expected)


def test_folders_and_globs_of_urls(tmp_path, classifier, place):
    for name in FORMATS:
        put(save(tmp_path / "here", name, VALUES), f"{place}/{name}")
    whole = dump_tasks([place])
    assert [task for task, _ in whole] == [place.rpartition("/")[2]]
    assert sorted(file.name.partition("/")[0] for _, files in whole for file in files) == sorted(FORMATS)
    assert all(isinstance(one, MeasuredInput) for one in outcomes(source(place), classifier).values())
    ((task, files),) = dump_tasks([f"mine={place}/np*/*.np[yz]"])
    assert (task, len(files)) == ("mine", 4)
    ((task, files),) = dump_tasks([f"{place}/zarr*/*.zarr"])
    assert (task, [file.name for file in files]) == (place.rpartition("/")[2], ["zarr2/one.zarr", "zarr3/one.zarr"])


def test_a_fingerprint_changes_with_the_file(tmp_path, place):
    put(save(tmp_path, "npy", VALUES), place)
    before = source(place).fingerprint()
    assert source(place).fingerprint() == before
    put(save(tmp_path, "npy", VALUES[:2]), place)
    after = source(place).fingerprint()
    assert before.keys() == after.keys()
    assert [key.rpartition("/")[2] for key in before if before[key] != after[key]] == ["one.npy"]


def test_what_is_not_there_is_named(tmp_path, place):
    put(save(tmp_path, "npy", VALUES), place)
    for path, message in (
        (f"{place}/none.npy", "does not exist"),
        (f"{place}/*.npz", "matches nothing"),
        (f"{place}/one.txt", "does not exist"),
    ):
        with pytest.raises(SourceError, match=re.escape(path) + ".*" + message):
            dump_tasks([path])


def test_a_file_that_goes_away_or_is_cut_fails_as_an_input(tmp_path, classifier, place):
    for name in ("npz", "npy"):
        put(save(tmp_path, name, VALUES), place)
    planned = source(place)
    units = planned.units()
    system, root = url_to_fs(place)
    system.rm(f"{root}/one.npy")
    system.pipe(f"{root}/one.npz", system.cat(f"{root}/one.npz")[:-40])
    found = [one for unit in units for _, one in planned.measure(unit, classifier, most_bytes=ENOUGH)]
    assert len(found) == 6
    for one in found:
        assert isinstance(one, FailedInput)
        assert "cannot be" in str(one.error)


def test_several_threads_read_one_bucket(tmp_path, classifier, s3):
    for n in range(6):
        np.save(tmp_path / f"{n}.npy", VALUES)
        put(tmp_path / f"{n}.npy", f"{s3}/threads")
    planned = source(f"{s3}/threads")
    assert planned.callers() >= 8
    (unit,) = planned.units()
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(lambda: list(planned.measure(unit, classifier, most_bytes=ENOUGH))) for _ in range(4)]
        for run in runs:
            assert [type(one) for _, one in run.result()] == [MeasuredInput] * 18


def test_a_bucket_that_is_not_there(s3):
    with pytest.raises(SourceError, match="s3://other/x"):
        dump_tasks(["s3://other/x"])


def test_credentials_that_are_missing(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(SourceError, match=r"s3://dumps/x cannot be listed: .*credentials"):
        dump_tasks(["s3://dumps/x"])
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing://x.npy", "Protocol not known: nothing"),
        ("http://127.0.0.1:9/x.npy", "does not exist: .*onnect"),
        ("zip://x.npy::file:///x.zip", "a chain of URLs"),
    ],
)
def test_urls_that_cannot_be_reached(path, message):
    with pytest.raises(SourceError, match=message):
        dump_tasks([path])


@pytest.mark.parametrize(
    ("url", "package", "message"),
    [
        ("s3://dumps/x.npy", "s3fs", f"s3://dumps/x.npy needs the extra 's3' (s3fs is not installed): {S3}"),
        ("gs://dumps/x.npy", "gcsfs", "gs://dumps/x.npy needs gcsfs, which is not installed: "),
        ("http://host/x.npy", "aiohttp", "http://host/x.npy needs aiohttp, which is not installed: "),
    ],
)
def test_urls_without_their_package_name_it_or_its_extra(monkeypatch, url, package, message):
    scheme = url.partition(":")[0]
    monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith("fsspec.implementations.http")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)  # classes imported before
    with pytest.raises(MissingExtraError, match=f"^{re.escape(message)}"):
        dump_tasks([url])


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Answers ranges of bytes, as object stores and file servers do, unless ``ranges`` is off."""

    ranges = True

    def do_GET(self):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        path = self.translate_path(self.path)
        if not (self.ranges and wanted):
            super().do_GET()
            return
        with io.FileIO(path) as stream:
            content = stream.read()
        begin, end = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.write(content[begin:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module", params=[True, False])
def web(request, tmp_path_factory):
    """A folder and its URL on a server with ranges or without."""
    folder = tmp_path_factory.mktemp("web")
    handler = type("Handler", (Ranges,), {"ranges": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", request.param
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors", "parquet"])
def test_a_web_server(classifier, web, name):
    folder, url, ranges = web
    path = save(folder, name, VALUES)
    found = outcomes(source(f"{url}/{path.name}?token=1"), classifier)
    if ranges:
        assert list(found) == [f"{path.name}[{n}]" for n in range(3)]
        for one, expected in zip(found.values(), VALUES, strict=True):
            assert_as_classified(one, classifier, expected)
    else:
        for one in found.values():
            assert isinstance(one, FailedInput) or len(found) == 3


def test_the_index_of_a_web_server_is_a_folder(classifier, web):
    folder, url, ranges = web
    for name in ("npy", "npz"):
        save(folder / "index", name, VALUES)
    ((task, files),) = dump_tasks([f"{url}/index/"])
    assert (task, [file.name for file in files]) == ("index", ["one.npy", "one.npz"])
    if ranges:
        found = outcomes(source(f"{url}/index/"), classifier)
        assert [type(one) for one in found.values()] == [MeasuredInput] * 6


def test_files_are_found_and_opened_for_others(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.TSV").write_text("text")
    (tmp_path / "a.tsv").write_text("more")
    ((*files,),) = (group.files for group in find_files(str(tmp_path), (".tsv",)))
    assert [(file.name, file.size, file.suffix) for file in files] == [("a.tsv", 4, ".tsv"), ("b/x.TSV", 4, ".tsv")]
    with open_file(files[1].url) as stream:
        assert stream.read() == b"text"
    with pytest.raises(SourceError, match=r"folder without \.txt"):
        find_files(str(tmp_path), (".txt",))
