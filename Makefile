# Targets a newcomer can guess: demo, serve, test, lint, docs, up, bench, clean; pin and wheel for its
# maintainers.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO_ARGS ?=
UP_ARGS ?=
SERVE_EXIT_AFTER_SNIPPET ?=
TEST_JOBS ?= 3

export EXCISE_HOME ?= $(CURDIR)/.excise
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo serve vllm test containers lint docs up bench clean install pin wheel

install: $(STAMP)

# PyPI's own torch wheel carries CUDA; where there is no GPU, the CPU build is taken from
# PyTorch's index, or from whatever local wheel pip already knows of (see scripts/install.sh).
$(STAMP): pyproject.toml constraints.txt scripts/install.sh scripts/virtual_environment.sh
	@bash scripts/install.sh "$(PYTHON)" "$(VENV)"
	@touch $@

# The newest versions that pyproject.toml allows become those everybody gets; then run the tests.
pin:
	rm -rf "$(VENV)"
	EXCISE_PINNED=no bash scripts/install.sh "$(PYTHON)" "$(VENV)"
	echo "# What Excise is tested with, written by \`make pin\`; torch is scripts/install.sh's." >constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable --exclude torch >>constraints.txt
	bash scripts/lock_images.sh $(BIN)/python
	@touch $(STAMP)

# The exit status is the verdict: 0 passed, 100 gates not met (make shows it as "Error 100").
demo: $(STAMP)
	@$(BIN)/excise demo $(DEMO_ARGS)

# vLLM's CPU build, in a virtual environment of its own (2 GB).
vllm:
	@bash scripts/install_vllm.sh "$(PYTHON)" .venv-vllm

# Until Ctrl-C; with SERVE_EXIT_AFTER_SNIPPET=1 until base and correction have answered.
serve: $(STAMP) vllm
	@$(BIN)/excise serve $(if $(filter-out 0,$(SERVE_EXIT_AFTER_SNIPPET)),--exit-after-snippet)

up: $(STAMP)
	@$(BIN)/excise up $(UP_ARGS)

# Files are dealt out to TEST_JOBS processes of one thread each, in the order in which they are
# collected, so that those that start servers come first and none of them is left for the end. Tests
# that wait for servers leave room for a third process on two cores. vLLM wants every core for itself.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder -m "not vllm and not containers" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m vllm tests/integration/vllm

# Images and the Compose file, with an engine of their own where containers can run at all.
containers: $(STAMP)
	$(BIN)/python -m pytest -m containers tests/integration/deploy

# Build sdist and wheel, and run the reduced demo from the wheel, in an empty folder.
wheel: $(STAMP)
	@bash scripts/check_wheel.sh $(VENV)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Guides, decisions and the references of API, command line and Python, as pages in site/. A broken
# link or a public name that nothing is said about is an error.
docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site is in $(CURDIR)/site: open index.html."

# Ratios from one run each, about half an hour on two cores. The longer benchmarks (repetition,
# compression, circuits) are scripts beside these that can be stopped and resumed or take options.
bench: $(STAMP)
	@$(BIN)/excise models fetch smollm2-135m-instruct >/dev/null
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/attribution_cost.py --model $(EXCISE_HOME)/models/smollm2-135m-instruct
	$(BIN)/python benchmarks/attribution_usual_way.py --model $(EXCISE_HOME)/models/smollm2-135m-instruct

# As root, a home that PostgreSQL's user cannot reach keeps its data under /var/lib/excise.
clean:
	@if grep -qxE '[0-9a-f]{16}' .excise/stack-id 2>/dev/null; then \
		rm -rf "/var/lib/excise/$$(cat .excise/stack-id)"; fi
	rm -rf $(VENV) .venv-vllm .excise demo-output site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache excise.egg-info
