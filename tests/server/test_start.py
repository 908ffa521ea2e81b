"""The start of a server: all that it needs is tried first, and whatever is wrong is said in sentences."""

import datetime
import os
import re
import ssl
import stat
import subprocess

import pytest
import trustme

from attention_patterns import errors
from attention_patterns_service import AttentionServer, Client, Limits
from attention_patterns_service.command.problems import try_settings
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.limits import OTHER_FILES
from attention_patterns_service.server.address import Address
from attention_patterns_service.server.tls import CertificateFiles, Certificates
from tests.helpers.servers import ATTENTION_SERVE, free_port, process_of, run, serving

PAST, FUTURE = datetime.datetime(2020, 1, 1), datetime.datetime(2100, 1, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Certificates, keys, authorities, token files and bundles, each broken in its own way."""
    folder = tmp_path_factory.mktemp("start")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    times = {"good": {}, "other": {}, "past": {"not_after": PAST}, "future": {"not_before": FUTURE}}
    for name, limits in times.items():
        issued = authority.issue_cert("localhost", **limits)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    lock = ["openssl", "ec", "-in", folder / "good.key", "-aes128", "-passout", "pass:x", "-out", folder / "locked.key"]
    subprocess.run(lock, check=True, capture_output=True)
    for name, good in (("dateless.crt", "good.crt"), ("dateless.pem", "ca.pem")):
        first = re.match(".*?END CERTIFICATE-----", (folder / good).read_text(), re.DOTALL)[0]
        damaged = re.sub(rb"(\x17\x0d|\x18\x0f)..", rb"\1xx", ssl.PEM_cert_to_DER_cert(first))  # their dates
        (folder / name).write_text(ssl.DER_cert_to_PEM_cert(damaged))
    (folder / "garbage").write_text("garbage")
    (folder / "empty").touch()
    return folder


def starts(*options, environment=None):
    """Runs a server that cannot start, plainly and with --check; returns the sentences, which are the same."""
    variables = os.environ | {"ATTENTION_SERVE_PORT": "0"} | (environment or {})
    started, checked = run(*options, env=variables), run("--check", *options, env=variables)
    assert (started.returncode, checked.returncode, started.stdout) == (1, 1, "")
    sentences = [line.removeprefix("attention-serve: ") for line in started.stderr.splitlines()]
    assert [line[7:] for line in checked.stdout.splitlines() if line.startswith("failed ")] == sentences
    return sentences


DATELESS = "holds a certificate whose dates or names cannot be read; make another"
CERTIFICATES = [
    ("dateless.crt", "good.key", f"certificate file {{0}}/dateless.crt {DATELESS}"),
    ("garbage", "good.key", "certificate file {0}/garbage holds no PEM certificate"),
    ("empty", "good.key", "certificate file {0}/empty holds no PEM certificate"),
    ("missing", "good.key", "certificate file {0}/missing cannot be read: No such file or directory"),
    ("good.crt", "missing", "certificate file {0}/missing cannot be read: No such file or directory"),
    ("good.crt", "garbage", "key file {0}/garbage is no PEM private key for {0}/good.crt"),
    ("good.crt", "other.key", "key file {0}/other.key is of another certificate than {0}/good.crt"),
    ("good.crt", "locked.key", "key file {0}/locked.key is encrypted; expected a key without a password"),
    ("past.crt", "past.key", "certificate file {0}/past.crt was good until Jan  1 00:00:00 2020 GMT; renew it"),
    (
        "future.crt",
        "future.key",
        "certificate file {0}/future.crt is good from Jan  1 00:00:00 2100 GMT on; is the clock right?",
    ),
]


@pytest.mark.parametrize(("cert", "key", "message"), CERTIFICATES)
def test_a_certificate_that_cannot_serve_is_refused(folder, cert, key, message):
    with pytest.raises(errors.SourceError) as refused:
        CertificateFiles(folder / cert, folder / key).context()
    assert str(refused.value) == message.format(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("garbage", "holds no PEM certificate"), ("empty", "holds no PEM certificate"), ("dateless.pem", DATELESS)],
)
def test_an_authority_that_cannot_know_anyone_is_refused(folder, name, message):
    files = CertificateFiles(folder / "good.crt", folder / "good.key", folder / name)
    with pytest.raises(errors.SourceError, match=f"authority file {folder}/{name} {message}"):
        files.check_client_ca()


def test_a_renewed_certificate_that_cannot_serve_leaves_the_one_before(folder, tmp_path, caplog):
    def put(name):
        for end in ("crt", "key"):
            (tmp_path / f"tls.{end}").write_bytes((folder / f"{name}.{end}").read_bytes())

    put("good")
    certificates = Certificates(CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key"))
    first = certificates.context()
    put("past")
    assert certificates.context() is certificates.context() is first
    assert [record.message for record in caplog.records] == ["certificate refused, the one before it stays"]
    put("other")
    assert certificates.context() is not first


def test_all_that_is_wrong_is_said_at_once(folder, server):
    port = server.endpoint.split(":")[1]
    sentences = starts(
        f"--port={port}",
        f"--model-dir={folder}",
        f"--tls-cert={folder}/good.crt",
        f"--tls-key={folder}/other.key",
        f"--tls-client-ca={folder}/empty",
        f"--tokens={folder}/missing",
        "--metrics-host=nowhere.invalid",
        "--metrics-port=1",
        f"--metrics-tokens={folder}/garbage",
        environment={"PROMETHEUS_MULTIPROC_DIR": f"{folder}/missing"},
    )
    assert [re.sub(f"( of | cannot be read: | cannot be bound: ).*|{folder}", "", each) for each in sentences] == [
        "model bundle ",
        "127.0.0.1:" + port,
        "key file /other.key is",
        "authority file /empty holds no PEM certificate",
        "token file /missing",
        "the metrics page on nowhere.invalid:1",
        "token file /garbage",
        "folder /missing",
    ]


def problems(**settings):
    """Returns the sentences on what a server with these settings lacks."""
    return [trial.sentence for trial in try_settings(Settings(**settings)) if not trial.succeeded]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_that_cannot_be_bound_is_named(server, workers):
    port = int(server.endpoint.split(":")[1])
    taken = f"127.0.0.1:{port} cannot be bound: Address already in use"
    assert problems(port=port, workers=workers) == [taken]
    assert problems(port=0, metrics_port=port) == [f"the metrics page on {taken}; choose another --metrics-port"]
    assert problems(host="192.0.2.1", port=0) == ["192.0.2.1:0 cannot be bound: Cannot assign requested address"]


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 300, "1.2.3.4.5", "::g"])
def test_a_host_that_is_not_known_is_named(host):
    with pytest.raises(errors.ServerError, match=re.escape(f"{Address(host, 1)} cannot be bound: ")):
        Address(host, 1).check_free()


def test_traces_without_their_extra_are_refused(tmp_path):
    """The packages are hidden from the process, as if they were not installed."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry.exporter'] = None\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": path, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    (sentence,) = starts(environment=environment)
    assert sentence.startswith(
        "OTEL_EXPORTER_OTLP_ENDPOINT needs the extra 'traces' (opentelemetry is not installed): "
    )


def test_too_few_files_are_refused():
    needed = 100 + OTHER_FILES
    done = subprocess.run(
        ["prlimit", f"--nofile={needed - 1}", ATTENTION_SERVE, "--check", "--port=0", "--max-connections=100"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    sentence = f"the process may open {needed - 1} files (ulimit -n), expected at least {needed} for 100 connections"
    assert f"failed {sentence}\n" in done.stdout


NO_SENSE = {
    "grace": (float("inf"), float("nan"), -1.0, 1e12),
    "workers": (0, 10_000),
    "log_level": ("nonsense", "INFO"),
    "host": ("", "unix:", "[]"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NO_SENSE.items() for value in values])
def test_a_setting_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(errors.InvalidSettingsError, match="expected"):
        Settings(**{name: value})


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", Limits.__dataclass_fields__)
def test_a_limit_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(errors.InvalidSettingsError, match=f"limit '{name}' is .*, expected above 0 and at most"):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 9464, "metrics_port": 9464}, "--metrics-port and --port are both 9464"),
        ({"host": "0.0.0.0", "port": 9464, "metrics_port": 9464}, "--metrics-port and --port are both 9464"),
        ({"host": "unix:/tmp/x", "workers": 2}, "processes cannot share a socket file"),
        ({"metrics_host": "unix:/tmp/x", "metrics_port": 1}, "expected an interface with a port"),
        ({"metrics_tls": True, "metrics_port": 1}, "--metrics-tls is given without --tls-cert"),
        ({"metrics_tokens": "x"}, "--metrics-tokens is given without --metrics-port"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, message):
    with pytest.raises(errors.InvalidSettingsError, match=message):
        Settings(**settings)


def test_a_budget_smaller_than_a_message_is_refused():
    with pytest.raises(
        errors.InvalidSettingsError, match="limit 'bytes' is 9, expected room in its half for the largest"
    ):
        Limits(bytes=9, message_bytes=10)


@pytest.mark.parametrize(("name", "value"), [("GRACE", "inf"), ("MAX_SECONDS", "0"), ("LOG_LEVEL", "nonsense")])
def test_variables_are_refused_like_options(name, value):
    done = run("--port=0", env=os.environ | {f"ATTENTION_SERVE_{name}": value})
    assert (done.returncode in {1, 2}, done.stdout) == (True, "")
    assert name.lower().removeprefix("max_").replace("_", "-") in done.stderr.replace("_", "-")
    assert "Traceback" not in done.stderr


def with_signal_at_import(folder, module):
    """The environment of a Python that gets SIGHUP when it imports ``module``."""
    (folder / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


@pytest.mark.parametrize(
    ("workers", "module"), [(1, "attention_patterns_service.command.cli"), (1, "onnxruntime"), (2, "onnxruntime")]
)
def test_sighup_during_the_start_is_obeyed_after_it(tmp_path, workers, module):
    """Each worker gets one as well: the environment is theirs too."""
    environment = with_signal_at_import(tmp_path, module)
    with serving(f"--workers={workers}", environment=environment) as (process, _):
        loaded = 0
        while loaded < workers:
            loaded += "model loaded" in process.stderr.readline()


def test_a_worker_that_gets_sighup_before_its_first_line_starts(tmp_path):
    code = "import os\nif 'ATTENTION_SERVE_HANDSHAKE' in os.environ:\n    os.kill(os.getpid(), 1)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with serving("--workers=2", environment={"PYTHONPATH": path}) as (_, endpoint), Client(endpoint) as client:
        assert client.model().version


def can_bind(host):
    try:
        Address(host, 0).check_free()
    except errors.ServerError:
        return False
    return True


@pytest.mark.skipif(not can_bind("::1"), reason="this machine has no IPv6")
@pytest.mark.parametrize(("host", "workers"), [("::1", 1), ("[::1]", 2)])
def test_ipv6_is_served_and_announced_as_it_is_dialled(host, workers):
    port = free_port()
    with serving("--host", host, f"--port={port}", f"--workers={workers}", f"--metrics-port={free_port()}") as (
        process,
        endpoint,
    ):
        assert endpoint == f"[::1]:{port}"
        with Client(endpoint) as client:
            assert client.model().version
        assert run("health", endpoint).stdout == "SERVING\n"
        assert problems(host=host, port=port) == [f"{endpoint} cannot be bound: Address already in use"]
        process.terminate()
        assert "can read the calls" not in process.stderr.read()  # it is of this machine alone


def test_a_socket_file_is_served_and_announced_as_it_is_dialled(tmp_path):
    path = tmp_path / "socket"
    with process_of("--host", f"unix:{path}") as (process, endpoint):
        assert endpoint == f"unix:{path}"
        with Client(endpoint) as client:
            assert client.model().version
        assert run("health", endpoint).stdout == "SERVING\n"
        assert problems(host=endpoint) == [f"{endpoint} cannot be bound: Address already in use"]
        with Client(endpoint) as client:  # the other one did not take its place
            assert client.model().version
        process.kill()
    assert path.is_socket()  # left by the one that was killed
    with serving("--host", endpoint), Client(endpoint) as client:
        assert client.model().version
    assert not path.exists()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o007, 0o770)])
def test_the_mode_of_a_socket_file_is_that_of_the_umask(tmp_path, classifier, mask, mode):
    path, before = tmp_path / "socket", os.umask(mask)
    try:
        with AttentionServer(classifier, host=f"unix:{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_socket_file_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path, fault in {
        tmp_path / "missing" / "socket": "No such file or directory",
        tmp_path / "file": "the file exists and is no socket",
        tmp_path / ("x" * 120): "AF_UNIX path too long",
    }.items():
        with pytest.raises(errors.ServerError) as refused:
            Address(f"unix:{path}", 0).check_free()
        assert str(refused.value) == f"unix:{path} cannot be bound: {fault}"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("unix:/x", True),
        ("0.0.0.0", False),
        ("::", False),
        ("127.example.com", False),
        ("10.0.0.1", False),
    ],
)
def test_addresses_that_others_reach_are_known(host, local):
    assert Address(host, 1).is_local is local
    assert bool(Settings(host=host).warnings) is not local
    page = Settings(metrics_host=host, metrics_port=1) if "unix" not in host else Settings()
    assert bool(page.warnings) is not local
