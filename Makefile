# Each target makes .venv where there is none; `make test` works from nothing on a fresh machine.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: demo test test-slow lint format clean

$(VENV)/.ready: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(VENV)/bin/lookalike demo $(ARGS)

test: $(VENV)/.ready
	$(RUN) pytest -m 'not slow' -n logical --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.ready
	$(RUN) pytest -m slow

lint: $(VENV)/.ready
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/.ready
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
