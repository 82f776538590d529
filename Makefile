# Two commands: `make quickstart` shows a whole search, `make test` checks everything. Both make .venv first.
.POSIX:
.SILENT:
.PHONY: help env quickstart lint test clean

PYTHON = # an interpreter to use instead of the first that serves
BIN = .venv/bin
RUN = runs/quickstart

help:
	echo 'make quickstart   search, report and export on embedded real text (minutes)'
	echo 'make test         formatting, lint, types and tests'
	echo 'make lint         the first three of these'
	echo 'make env          .venv alone, with raysearch (editable) and the tools for its development'
	echo 'make clean        remove .venv and caches; runs/ stays'

env: .venv/installed

# Made anew when pyproject.toml changes; pip says its part in .venv/install.log.
.venv/installed: pyproject.toml
	for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
		"$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'raysearch needs Python 3.11 or newer with its venv module; name one: make PYTHON=/path/to/python3.11' >&2; \
		exit 1; \
	fi; \
	.venv/bin/python -c '' 2>/dev/null || "$$python" -m venv --clear .venv || exit 1; \
	echo "installing into .venv with $$(.venv/bin/python --version); this takes some minutes once"; \
	if ! .venv/bin/python -m pip install --disable-pip-version-check -e '.[dev]' >.venv/install.log 2>&1; then \
		tail -n 12 .venv/install.log >&2; \
		echo 'installation failed; all that pip said is in .venv/install.log' >&2; \
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

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
