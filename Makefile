# `make demo` sets up and runs the main job; `make test` sets up and passes lint, types and all tests; `make check` leaves
# out the slow tests. Lint and types run beside the tests, and are told in one piece behind them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Each worker has one thread, or they would wait for each other. A group of tests (xdist_group) shares costly fixtures.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
CHECKS := $(VENV)/checks.log
define with_checks
@$(MAKE) --no-print-directory --keep-going lint types docs > $(CHECKS) 2>&1 & checks=$$!; \
$(MAKE) --no-print-directory $(1); tests=$$?; \
wait $$checks; checks=$$?; cat $(CHECKS); exit $$((tests || checks))
endef

.PHONY: demo test check lint types tests quick docs format clean

demo: $(VENV)/.installed-demo
	$(BIN)/chiasm demo

# Set-up comes first: what runs beside each other must not install.
test: $(VENV)/.installed-peers
	$(call with_checks,tests)

check: $(VENV)/.installed-peers
	$(call with_checks,quick)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

tests: $(VENV)/.installed-peers
	$(PYTEST)

quick: $(VENV)/.installed-peers
	$(PYTEST) -m "not slow"

docs: $(VENV)/.installed-dev # strict: a dead link, a page out of the navigation or a name that is not there is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp an extra: set-up runs again only when the dependencies change.
$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[eval]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@

# Peers that cannot stand among the other packages: they ask for a torchvision that fits no pinned torch.
$(VENV)/.installed-peers: peers.txt $(VENV)/.installed-dev
	$(PIP) --no-deps --upgrade --target $(VENV)/peers -r peers.txt
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
