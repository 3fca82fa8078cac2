# The commands of the project. `make demo` is the first thing to type.

# Which Python to use, such as PYTHON=python3.12; by default the first that fits.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-extras test-slurm test-gpu check format pictures

help:
	@echo "make demo         train on small bundled images of digits: no GPU, no download"
	@echo "make test         run the tests"
	@echo "make test-extras  run the tests that are slow and seldom break, or need more than distcls itself"
	@echo "make test-slurm   run the tests that need Slurm's daemons (tests/slurm/cluster install)"
	@echo "make test-gpu     run every line of benchmarks/gpu.sh on a CPU, at tiny sizes"
	@echo "make check        check formatting, lint, types, architecture, configs, launchers, and the commands in README and docs"
	@echo "make format       format the code with ruff"
	@echo "make pictures     record the demo and copy its plots for the README"

demo: $(VENV)/.installed
	$(BIN)/distcls train

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-extras: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m extras
	PYTHON="$(abspath $(BIN)/python)" tests/wheel.sh

test-slurm: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slurm tests/slurm

test-gpu: $(VENV)/.installed-dev
	images=$$(mktemp -d) && trap 'rm -rf "$$images"' EXIT && \
	$(BIN)/python benchmarks/noise.py "$$images/noise" && \
	$(BIN)/python benchmarks/pack.py "$$images/noise" "$$images/noise.npz" && \
	PYTHON="$(CURDIR)/$(BIN)/python" benchmarks/gpu.sh --device cpu "$$images/noise.npz"

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_voice.py tests/config
	$(BIN)/python -m pytest -m "" tests/test_readme.py
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/launch/check_files.sh

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pictures: $(VENV)/.installed
	$(BIN)/python docs/make_pictures.py

# Set-up runs once, and again when the dependencies change. It uses uv where that is installed, because uv is fast;
# --seed adds pip to the environment, so that `python -m pip` installs into it.

$(VENV)/.installed: pyproject.toml
	@$(call install,.)

$(VENV)/.installed-dev: pyproject.toml
	@$(call install,.[dev])

define install
echo "Setting up $(VENV): this happens once and takes a few minutes"; \
if command -v uv >/dev/null 2>&1; then \
	{ [ -x $(BIN)/python ] || uv venv --quiet --seed $(addprefix --python ,$(PYTHON)) $(VENV); } && \
	uv pip install --quiet --compile-bytecode --python $(BIN)/python -e "$(1)"; \
else \
	{ [ -x $(BIN)/pip ] || $(or $(PYTHON),python3) -m venv $(VENV); } && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e "$(1)"; \
fi && touch $@
endef
