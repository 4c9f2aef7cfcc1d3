# The two commands of the README, and what stands behind them. Everything a fresh Debian or Ubuntu
# machine lacks is installed by the targets themselves.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: run test test-v2 lint check clean compatibility system-run system-test bench

VENV := .venv
# The distribution's own interpreter first: a version manager's shim costs 60 ms a start.
PYTHON ?= $(shell for p in /usr/bin/python3 /usr/local/bin/python3 python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)

COMMAND ?= echo "Hello from a container of $$(uname -n), kernel $$(uname -r)"

run: $(VENV)/.installed
	@$(VENV)/bin/sampan run --rm --network none host sh -c '$(COMMAND)'

test: system-test $(VENV)/.tested
	$(VENV)/bin/python -m tests

test-v2: system-test $(VENV)/.tested
	$(VENV)/bin/python -m tests.qemu

lint: $(VENV)/.tested
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

compatibility: system-test $(VENV)/.tested
	rm -f .cache/compatibility.json
	$(VENV)/bin/pytest
	$(VENV)/bin/python -m tests.compatibility

bench: system-test $(VENV)/.tested
	$(VENV)/bin/python bench/start.py

system-run:
	@./tools/system-packages run

system-test:
	@./tools/system-packages test

$(VENV)/.installed: pyproject.toml | system-run
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --group dev
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .cache
