# Every command has one name, used by people and CI alike. Only Python 3.11+, make and a network are needed.
PYTHON ?= python3
LOWEST ?= python3.11
UV = .venv/bin/uv
RUN = .venv/bin/python
COMPILE = $(UV) pip compile --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet
LOCK = $(COMPILE) pyproject.toml
# What builds this project is locked as well.
BUILD = --build-constraint requirements/build.txt --require-build-hashes --preview-features build-dependency-hashes
PROTOC = -m grpc_tools.protoc -Iattention_patterns_service/pb=proto proto/attention_patterns/v1/attention_patterns.proto \
	proto/inference/open_inference.proto

.PHONY: run test test-lowest check audit sbom generate train bench fuzz lock

run: .venv/run  ## the main job: sample attention through a real server
	$(RUN) -P -m attention_patterns_service.command.demo

test: .venv/dev  ## every test
	$(RUN) -m pytest

test-lowest: .venv-lowest/test  ## library, service and labeller with the lowest versions promised, whose mixture may warn
	NUMBA_CACHE_DIR=$(CURDIR)/.venv-lowest/kernel .venv-lowest/bin/python -m pytest -W default tests/library tests/server tests/labeller

check: .venv/dev  ## lint, types, architecture, the contract and its generated code
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	.venv/bin/lint-imports
	$(RUN) -m bandit --quiet --recursive --configfile pyproject.toml benchmarks classifier service
	.venv/bin/buf lint proto
	.venv/bin/buf breaking proto --against proto/released
	$(RUN) -m pytest tests/server/test_contract.py

audit: .venv/dev  ## known weaknesses of the locked packages; asks the package registry
	$(RUN) -m pip_audit --require-hashes --disable-pip --requirement requirements/run.txt

sbom: .venv/dev  ## the bill of materials of the image, CycloneDX
	mkdir -p dist
	$(RUN) -W ignore -m cyclonedx_py requirements requirements/serve.txt --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.cdx.json

generate: .venv/dev  ## protobuf code from the contract
	$(RUN) $(PROTOC) --python_out=service --grpc_python_out=service --pyi_out=service

train: .venv/dev  ## the shipped model bundle, from the labelled data set
	$(RUN) -m attention_patterns_training train

bench: .venv/dev  ## speed in ratios, measured in one run
	$(RUN) -m benchmarks.kernel
	$(RUN) -m benchmarks.serving
	$(RUN) -m benchmarks.overload
	$(RUN) -m benchmarks.soak
	$(RUN) -m benchmarks.against_peers
	$(RUN) -m benchmarks.offline
	$(RUN) -m benchmarks.offline_models
	$(RUN) -m benchmarks.offline_memory
	$(RUN) -m benchmarks.offline_cost
	$(RUN) -m benchmarks.tables

fuzz: .venv/dev  ## a million bad inputs
	$(RUN) -m tests.attacks.fuzz --inputs 1000000

lock: .venv/uv  ## the lock files
	$(LOCK) --all-extras --group dev --output-file requirements/dev.txt
	$(LOCK) --extra service --extra label --extra report --constraint requirements/dev.txt --output-file requirements/run.txt
	$(LOCK) --extra service --constraint requirements/dev.txt --output-file requirements/serve.txt
	$(COMPILE) --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(LOCK) --all-extras --group test --resolution lowest-direct --upgrade --output-file requirements/lowest.txt

.venv/uv:
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	touch $@

# Bytecode is compiled here, and the kernel on its first use, so that a server is up within a second from then on.
.venv/run: requirements/run.txt requirements/build.txt pyproject.toml | .venv/uv
	$(UV) pip install --quiet --python .venv --compile-bytecode --require-hashes --requirement requirements/run.txt
	$(UV) pip install --quiet --python .venv --no-deps $(BUILD) --editable .
	$(RUN) -c "from attention_patterns import PatternClassifier; PatternClassifier.load().warm_up()"
	touch $@

.venv/dev: requirements/dev.txt .venv/run
	$(UV) pip install --quiet --python .venv --compile-bytecode --require-hashes --requirement requirements/dev.txt
	touch $@

.venv-lowest/test: requirements/lowest.txt requirements/build.txt pyproject.toml | .venv/uv
	$(UV) venv --quiet --allow-existing --python $(LOWEST) .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest --compile-bytecode --require-hashes --requirement requirements/lowest.txt
	$(UV) pip install --quiet --python .venv-lowest --no-deps $(BUILD) --editable .
	touch $@
