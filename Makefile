# Every target sets up what it needs: an own .venv from the locked, hashed requirements. Needs python3.11 (or newer) with venv, make, and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
# Named by what the lock says, so that a checkout which only touches the files does not make .venv anew.
LOCKED := $(VENV)/.locked-$(firstword $(shell cat requirements-build.lock requirements-dev.lock | cksum))
READY := $(VENV)/.ready
# The public registry's hashes, not those of a mirror that pip or uv is configured for on this machine.
LOCK := env -u PIP_FIND_LINKS -u UV_FIND_LINKS -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL $(BIN)/uv --no-config \
	pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
# What an installation may need, in requirements.lock; requirements-dev.lock has the same and what work on Hive needs.
INSTALLED := --extra flower --extra gpu --extra container
BUILD_REQUIRES := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")

# The image, and what it is made on. Wheels are gathered anew when that, or a lock, has changed.
BASE ?= python:3.11-slim-bookworm
IMAGE := venom-hive:$(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
DOCKER ?= docker
WHEELS := wheels/.gathered-$(firstword $(shell (echo $(BASE); cat requirements-build.lock requirements.lock) | cksum))
# What of this machine's pip settings holds in a container, too; a variable that is not set is passed over.
PIP_SETTINGS := $(addprefix --env ,PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT HTTPS_PROXY https_proxy NO_PROXY no_proxy)
define GATHER
python3 -m venv /tmp/venv
pip="/tmp/venv/bin/python -m pip -q --disable-pip-version-check --no-input --no-cache-dir"
$$pip install --require-hashes -r /locks/requirements-build.lock
for lock in /locks/requirements-build.lock /locks/requirements.lock; do
    $$pip download --require-hashes --no-build-isolation --dest /wheels -r $$lock
done
endef
export GATHER

MINUTES ?= 30
RATE ?= 200

.PHONY: help setup upstream demo test conformance chaos netns docker systemd browser test-deploy soak wheels image check format bench lock upgrade clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(READY) upstream ## Make .venv, or make it anew when the lock has changed

demo: $(READY) ## See the main job on this machine, in under two minutes
	@$(BIN)/hive demo

test: $(READY) upstream ## Run all tests, the code blocks of README and docs included
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

chaos: $(READY) ## Run the chaos proof in its long form: half an hour of kills, cuts and freezes
	@HIVE_TEST_CHAOS=long $(BIN)/python -m pytest -s tests/chaos

netns: $(READY) ## Run a hive on network namespaces whose links fail: root, iproute2 and nftables
	@HIVE_TEST_NETNS=1 $(BIN)/python -m pytest -n 5 --dist worksteal tests/netns

docker: $(READY) ## Run the image, the compose file and stacks on an engine of the tests' own: root, docker.io, docker-compose, debootstrap
	@HIVE_TEST_DOCKER=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/docker

systemd: $(READY) ## Run the units on a machine of the tests' own: root, systemd-container, debootstrap
	@HIVE_TEST_SYSTEMD=1 $(BIN)/python -m pytest tests/systemd

browser: $(READY) ## Look at Flower in a browser: chromium
	@HIVE_TEST_BROWSER=1 $(BIN)/python -m pytest tests/browser

test-deploy: docker systemd netns browser ## Run what proves a hive where it runs: these four

conformance: $(READY) upstream ## Run kombu's and Celery's own integration tests on Hive: half an hour
	@$(BIN)/python -m tests.conformance

soak: $(READY) ## Run a mixed load for MINUTES (30) at RATE (200) tasks a second; memory must stay flat, no key be left over
	@$(BIN)/python -m tests.chaos.soak $(MINUTES) $(RATE)

check: $(READY) ## Lint, types, layers, the map of the modules
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python -m tests.house

# In the folder .upstream. Where there is no network `make test` goes without.
upstream: $(READY)
	@$(BIN)/python -m tests.conformance.sources

format: $(READY) ## Lay out the code and apply ruff's safe fixes
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

bench: $(READY) ## Run every bench, one after the other, and print their ratios
	@$(BIN)/python -m bench

wheels: $(WHEELS) ## Gather in wheels/ what the image needs, with the Python of its BASE in a container

$(WHEELS):
	@echo "Gathering the wheels for $(BASE) ..."
	@rm -rf wheels && mkdir wheels
	@$(DOCKER) run --rm --user "$$(id -u):$$(id -g)" $(DOCKER_RUN) $(PIP_SETTINGS) --env HOME=/tmp --env GATHER \
		--volume "$(CURDIR)/wheels:/wheels" --volume "$(CURDIR)/requirements-build.lock:/locks/requirements-build.lock:ro" \
		--volume "$(CURDIR)/requirements.lock:/locks/requirements.lock:ro" $(BASE) sh -ec 'eval "$$GATHER"'
	@touch $@

image: wheels ## Build the image of Hive from wheels/, on BASE (python:3.11-slim-bookworm), without a network
	@$(DOCKER) build --network none --build-arg BASE=$(BASE) $(DOCKER_BUILD) --tag $(IMAGE) .

lock: $(LOCKED) ## Write the lock files for pyproject.toml; pins that still fit stay
	@$(LOCK) $(UPGRADE) --all-extras --output-file requirements-dev.lock pyproject.toml
	@$(LOCK) $(UPGRADE) $(INSTALLED) --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	@$(BIN)/python -c '$(BUILD_REQUIRES)' | $(LOCK) $(UPGRADE) --constraint requirements-dev.lock --output-file requirements-build.lock -

upgrade: UPGRADE := --upgrade
upgrade: lock ## Write the lock files with the newest versions that pyproject.toml allows

clean: ## Remove .venv, caches and build products; a hive's state in .hive stays
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .upstream .test-base wheels
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Source-only dependencies are built with the hashed build backend of requirements-build.lock, never with one fetched on the way.
$(LOCKED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Hive needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")'
	@echo "Setting up $(VENV) (a minute or two) ..."
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --require-hashes -r requirements-build.lock
	@$(PIP_INSTALL) --require-hashes --no-build-isolation -r requirements-dev.lock
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@missing=$$($(BIN)/python -m pip check --disable-pip-version-check) || \
		{ echo "$$missing"; echo "The lock does not hold what pyproject.toml asks for: make lock"; exit 1; } >&2
	@touch $@
