# Each target makes .venv where there is none; `make test` works from nothing on a fresh machine.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
# All dependencies at the lowest versions that pyproject.toml allows, for the core of the tests
LOWEST := .venv-lowest
CORE := augment backbones cache decoding doctor encoders feature_files features knn library linear loader losses masks methods metrics \
	neighbours official optim order random records reference runs schedules sources vit weights workers wrappers
RESUME := test_ctrl_c_saves_and_resumes_bit_for_bit test_sigterm_exits_143_and_resumes_with_workers

PAGES := README.md CONTRIBUTING.md CHANGELOG.md docs benchmarks/records

.PHONY: demo test tritonserver slurm test-slow test-lowest lint format docs clean

$(VENV)/.ready: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(VENV)/bin/lookalike demo $(ARGS)

test: $(VENV)/.ready
	$(RUN) pytest -m 'not slow' -n logical --dist loadfile --no-loadscope-reorder

# A real tritonserver for tests/test_triton.py, which skips without it; 55 MB
tritonserver: $(VENV)/.ready
	$(VENV)/bin/python tests/support/triton_server.py

# A real Slurm of one machine for tests/test_slurm.py, which skips without it: Debian's packages; needs root
slurm:
	command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null || { \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge; }

test-slow: $(VENV)/.ready
	$(RUN) pytest -m slow

$(LOWEST)/.ready: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet uv
	$(LOWEST)/bin/uv pip compile --quiet --upgrade --python $(LOWEST)/bin/python --resolution lowest-direct \
		--extra dev --output-file $(LOWEST)/versions.txt pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps \
		--requirements $(LOWEST)/versions.txt --editable .
	touch $@

test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -m 'not slow' -n logical --dist loadfile --no-loadscope-reorder \
		$(CORE:%=tests/test_%.py) $(RESUME:%=tests/test_resume.py::%)

lint: $(VENV)/.ready
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-logo
	$(RUN) mdformat --check $(PAGES)
	$(VENV)/bin/codespell src docs tests benchmarks examples $(PAGES)

format: $(VENV)/.ready
	$(RUN) ruff format .
	$(RUN) ruff check --fix .
	$(RUN) mdformat $(PAGES)

docs: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --editable '.[docs]'
	$(RUN) mkdocs build --strict

clean:
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .mypy_cache .ruff_cache
