# Targets a newcomer can guess: demo, test, lint, up, bench, clean.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO_ARGS ?=

export EXCISE_HOME ?= $(CURDIR)/.excise
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint up bench clean install

install: $(STAMP)

# PyPI's own torch wheel carries CUDA; where there is no GPU, the CPU build is taken from
# PyTorch's index, or from whatever local wheel pip already knows of (see scripts/install_torch).
$(STAMP): pyproject.toml scripts/install.sh
	bash scripts/install.sh $(PYTHON) $(VENV)
	@touch $@

demo: $(STAMP)
	$(BIN)/excise demo $(DEMO_ARGS)

up: $(STAMP)
	$(BIN)/excise up

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .excise demo-output
