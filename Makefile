SHELL := /bin/bash
.DEFAULT_GOAL := help
CACHE ?= $(or $(LVS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/openshift-lvs)
VENV := $(CACHE)/venv-$(shell cat requirements-dev.txt | sha256sum | cut -c1-16)
PYTHON := .venv/bin/python

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment is kept in the cache by the content of the lock file, whatever its age; a half-made one has no mark and is made anew.
$(VENV)/complete:
	@echo "==> Python environment $(VENV)"
	rm -rf $(VENV) && python3.11 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	touch $@

.PHONY: .venv
.venv: $(VENV)/complete
	@ln -sfn $(VENV) .venv

.PHONY: lock
lock: .venv ## write requirements*.txt anew from requirements*.in
	for f in requirements requirements-dev; do .venv/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-header $$f.in -o $$f.txt; done

.PHONY: schema
schema: .venv ## write Pulumi.schema.json and the tables of docs/reference/configuration.md anew from the model
	$(PYTHON) -m components.configuration

.PHONY: engine
engine: .venv ## the pulumi on PATH, or one built from Go modules (minutes once, then seconds)
	$(PYTHON) -m lab.pulumi build

.PHONY: up
up: .venv ## the example cluster on a real OpenStack of its own, to answers through its addresses
	$(PYTHON) -m lab up

.PHONY: down
down: .venv ## all of that away
	$(PYTHON) -m lab down

.PHONY: docs
docs: .venv ## build/docs from docs/; a link or an anchor that leads nowhere ends it
	.venv/bin/mkdocs build --strict

.PHONY: lint
lint: docs ## ruff, mypy, vermin, shellcheck, go vet, actionlint, and docs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy components operations plugin lab node docs __main__.py tests
	.venv/bin/vermin --target=3.9- --violations --no-tips node/openshift_lvs node/openshift-lvs
	.venv/bin/shellcheck $$(awk 'FNR == 1 && /^#!.*sh$$/ { print FILENAME } { nextfile }' $$(git ls-files))
	set -e; for folder in $(sort $(dir $(shell git ls-files '*.go'))); do go -C $$folder vet .; done
	go -C .github/tools tool actionlint -shellcheck $(CURDIR)/.venv/bin/shellcheck

.PHONY: test
test: engine ## unit tests, and one fault of each kind on real keepalived, IPVS and VRRP in a virtual machine
	$(PYTHON) -m pytest tests/unit -n 2 --durations=5
	RUNS=1 $(PYTHON) -m pytest tests/dataplane -m "representative and not cluster" -v --capture=no --durations=0

.PHONY: test-stacks
test-stacks: .venv ## every Pulumi.STACK.yaml: the model, and the installed keepalived and nft (as root); no engine, no virtual machine
	NODE_ROOT=/ $(PYTHON) -m pytest tests/unit/test_committed_stacks.py -v

.PHONY: test-faults
test-faults: engine ## every fault and change, RUNS times each (3, crashes 10); FAULTS='not deployed': the quick ones; WITHIN: minutes; SLACK_S: for takeovers
	RUNS=$(RUNS) WITHIN=$(WITHIN) SLACK_S=$(SLACK_S) $(PYTHON) -m pytest tests/dataplane -m "$(FAULTS)" -v --capture=no --durations=0

.PHONY: test-cloud
test-cloud: engine ## make up and everything after it, against a real OpenStack; without what takes minutes each; WITHIN: minutes
	WITHIN=$(WITHIN) $(PYTHON) -m pytest tests/cloud -m "not long" -v --capture=no --durations=0

.PHONY: test-cloud-all
test-cloud-all: engine ## the same, with all of it
	$(PYTHON) -m pytest tests/cloud -v --capture=no --durations=0

.PHONY: render
render: .venv ## the files of every host of STACK (dev)
	$(PYTHON) -m operations render --stack $(or $(STACK),dev)
