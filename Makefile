# Every command has one name, used by people and CI alike. Only Python 3.11+, make and a network are needed.
PYTHON ?= python3
UV = .venv/bin/uv
RUN = .venv/bin/python
LOCK = $(UV) pip compile pyproject.toml --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet
PROTOC = -m grpc_tools.protoc -Iservice/pb=proto proto/attention_patterns/v1/attention_patterns.proto \
	proto/inference/open_inference.proto

.PHONY: run test check generate train bench lock

run: .venv/lean  ## the main job: sample attention through a real server
	$(RUN) -m service.demo

test: .venv/dev  ## every test
	$(RUN) -m pytest

check: .venv/dev  ## lint, types, architecture, generated code
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	.venv/bin/lint-imports
	$(RUN) -m pytest tests/test_contract.py

generate: .venv/dev  ## protobuf code from the contract
	$(RUN) $(PROTOC) --python_out=. --grpc_python_out=. --pyi_out=.

train: .venv/dev  ## the shipped model bundle, from the labelled data set
	$(RUN) -m training.train

bench: .venv/lean  ## speed in ratios, measured in one run
	$(RUN) -m classifier.benchmark
	$(RUN) -m service.benchmark

lock: .venv/uv  ## the lock files
	$(LOCK) --all-extras --output-file requirements/dev.txt
	$(LOCK) --constraint requirements/dev.txt --output-file requirements/lean.txt

.venv/uv:
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	touch $@

# The lean environment is installed unless the dev environment, which holds it, is there already.
.venv/lean: requirements/lean.txt pyproject.toml | .venv/uv
	test -e .venv/dev || $(UV) pip install --quiet --python .venv --require-hashes --requirement requirements/lean.txt
	$(UV) pip install --quiet --python .venv --no-deps --editable .
	touch $@

.venv/dev: requirements/dev.txt pyproject.toml | .venv/uv
	$(UV) pip install --quiet --python .venv --require-hashes --requirement requirements/dev.txt
	$(UV) pip install --quiet --python .venv --no-deps --editable .
	touch $@
