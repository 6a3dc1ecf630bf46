# Two commands: `make demo` sets up and runs the main job, `make test` sets up and passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test lint types check docs format clean

demo: $(VENV)/.installed-demo
	$(BIN)/chiasm demo

test: lint types check

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: $(VENV)/.installed-peers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal # one thread a worker, or they wait for each other

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
