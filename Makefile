# Everything runs in .venv, made from the pinned list on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/pytest
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
TORCH_INDEX := https://download.pytorch.org/whl/cpu
# A release of vLLM that has no build for CPUs yet, or is not tested yet.
VERSION ?= 0.33.0
OVERLAY = .cache/vllm-$(VERSION)
# Where modules are imported from by their names alone, joined by colons; in bench/soundness that is every folder.
TYPED_FOLDERS := $(subst $() ,:,.check . tests/support bench bench/gpu $(wildcard bench/soundness/*) tools)
FAST_TESTS := tests/poc/core tests/poc/offline tests/poc/outbox tests/poc/protocol tests/poc/rounds tests/poc/settings \
	tests/poc/verdict tests/poc/webhooks tests/server/http tests/test_imports.py \
	$(patsubst %,--ignore tests/%.py,poc/outbox/test_callback_faults poc/outbox/test_full_disk \
	$(addprefix server/http/test_,documented_requests plugin plugin_outbox real_server smuggling))
EXPERIMENTS := law streams honest_noise thresholds detection shortcuts forging grinding caching resistance games

.PHONY: help demo setup programs clean test-fast coverage test-python test test-all test-next test-newest gpu gpu-parts \
	check hooks docs pages pictures bench soundness build release-notes

##@ Begin

help: ## Show this list
	@sed -nE 's/^##@ (.*)/\n\1/p; s/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: setup ## Prove a trained model on real servers, and catch nine cheaters
	$(BIN)/hallmark demo

setup: $(STAMP) ## Make .venv with vLLM for CPUs and Hallmark in editable mode

# torch comes first and with its own dependencies (a CUDA build brings its libraries, a CPU build none);
# all else is exactly the pinned list. PyPI's own build is for CUDA and wants another Triton than the pinned one:
# PyTorch's index has the one for CPUs.
$(STAMP): requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint requirements/cpu.txt torch setuptools || \
		$(PIP) --constraint requirements/cpu.txt --extra-index-url $(TORCH_INDEX) torch setuptools
	$(PIP) --no-deps --requirement requirements/cpu.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

programs: setup ## Fetch what tests run: Chromium, Prometheus, PostgreSQL, systemd
	$(BIN)/python -P tools/install_browser.py
	$(BIN)/python -P tools/debian_programs.py

clean: ## Remove what the targets made
	rm -rf $(VENV) .check .cache build dist site *.egg-info

##@ Test

# What starts no server, no kernel's interpreter and no vLLM: for the loop of an editor.
test-fast: setup ## What needs no server: protocol, outbox, rounds, routes, verdicts
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not gpu and not server" --numprocesses 2 $(FAST_TESTS)

# The floor is in pyproject.toml. Processes that tests start are left out: some run on a broken file system, where
# what measures would fail too.
coverage: setup ## The same, and the branches that they take, against a floor
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not gpu and not server" --cov --numprocesses 2 $(FAST_TESTS)

# All but real servers and deploy/: the Docker Compose of PyPI is for Python 3.11 alone.
test-python: programs ## What starts no real server: make test-python PYTHON=python3.14
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not gpu and not server" --numprocesses 2 --dist loadgroup \
		--ignore tests/e2e --ignore tests/deploy

# Real servers take both cores; all other tests share them among two processes of one thread each.
test: programs ## The tests that CI runs (20 to 55 minutes on 2 cores)
	$(PYTEST) -m "not slow and not gpu" tests/e2e
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not gpu" --numprocesses 2 --dist loadgroup --ignore tests/e2e

test-all: programs ## Every test, the slow and the GPU ones included
	$(PYTEST) --hypothesis-profile=exploring

# The release's Python files over the installed build for CPUs. What is slow but for other reasons is left out.
test-next: programs $(OVERLAY)/.made ## Real servers on a newer vLLM: make test-next VERSION=0.33.0
	PYTHONPATH=$(CURDIR)/$(OVERLAY) $(PYTEST) -m "not gpu and (not slow or next)" tests/e2e tests/poc/engine tests/kernels

$(OVERLAY)/.made: tools/vllm_overlay.py tools/_release.py requirements/next.txt | $(STAMP)
	$(BIN)/python tools/vllm_overlay.py $(VERSION) $(OVERLAY)
	@touch $@

# The check ends with the command that tries the release.
test-newest: programs ## Check vLLM's newest release, then run the tests on it
	@mkdir -p .cache
	$(BIN)/python tools/check_vllm_release.py > .cache/release.txt || { cat .cache/release.txt; exit 1; }
	@cat .cache/release.txt
	$(MAKE) test-next VERSION=$$(sed -n 's/^Next: make test-next VERSION=//p' .cache/release.txt)

# Nothing is installed and nothing fetched: PYTHON has PyTorch with CUDA, Triton, transformers, SciPy and pytest
# with hypothesis, and vLLM or not. bench/gpu/run.py says what the environment may set.
gpu: ## Correctness, times, noise on a GPU: make gpu PYTHON=python3
	$(PYTHON) -P bench/gpu/run.py

gpu-parts: setup ## Fetch what make gpu measures noise on, to be carried to a GPU
	$(BIN)/python -P bench/gpu/_smollm2.py split

##@ Check and document

# mypy finds hallmark.* by folders: links give the sources those names.
check: setup ## Lint, format, the direction of imports, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	rm -rf .check && mkdir -p .check/hallmark
	ln -s ../../kernels ../../poc ../../server .check/hallmark
	MYPYPATH=$(TYPED_FOLDERS) $(BIN)/mypy -p hallmark.kernels -p hallmark.poc -p hallmark.server
	MYPYPATH=$(TYPED_FOLDERS) $(BIN)/mypy bench tools tests

hooks: setup ## What pre-commit runs before each commit, over all files
	$(BIN)/pre-commit run --all-files

# Nothing is fetched.
docs: setup ## Build the documentation into site/, and report sentence lengths
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html. Pages with longer sentences than we aim at:"
	$(BIN)/python -P tools/sentences.py

pages: setup ## Write the generated parts of the documents anew
	$(BIN)/python -P tools/command_pages.py
	$(BIN)/python -P tools/reference_pages.py
	$(BIN)/python -P tools/supported_table.py
	$(BIN)/python -P bench/report.py

pictures: programs ## Take the pictures of the demo and the live pages anew
	$(BIN)/python -P tools/demo_picture.py
	HALLMARK_PICTURES=docs/figures $(PYTEST) tests/e2e/test_page.py

##@ Measure

bench: programs ## Every bench on this CPU, small sizes (45 minutes on 2 cores)
	$(BIN)/python -P bench/draw.py
	$(BIN)/python -P bench/numerics.py
	$(BIN)/python -P bench/family_noise.py
	$(BIN)/python -P bench/predict.py
	$(BIN)/python -P bench/fused_vs_eager.py
	$(BIN)/python -P bench/overhead.py
	$(BIN)/python -P bench/overhead.py --engine vllm
	$(BIN)/python -P bench/round.py
	$(BIN)/python -P bench/coexist.py
	$(BIN)/python -P bench/memory.py
	$(BIN)/python -P bench/outbox.py
	$(BIN)/python -P bench/receiver.py
	$(BIN)/python -P bench/network.py
	$(BIN)/python -P bench/demo.py
	$(BIN)/python -P bench/page.py
	$(BIN)/python -P bench/verification.py
	$(BIN)/python -P bench/verification_queue.py
	$(BIN)/python -P bench/report.py

soundness: setup ## Every experiment of docs/soundness/ (73 minutes on 2 slow cores)
	for experiment in $(EXPERIMENTS); do $(BIN)/python -P bench/soundness/experiments/$$experiment.py || exit 1; done
	$(BIN)/python -P bench/report.py

##@ Release

# In an environment of its own, with nothing but the builders: no cache and no other package has a hand in it.
build: ## Build the source distribution and the wheel into dist/
	rm -rf dist .cache/build
	$(PYTHON) -m venv .cache/build
	PIP_CONSTRAINT=requirements/cpu.txt .cache/build/bin/pip install --quiet --disable-pip-version-check build
	PIP_CONSTRAINT=requirements/cpu.txt .cache/build/bin/python -P -m build

release-notes: ## Print what changed in a release: make release-notes TAG=v0.1.0
	@$(PYTHON) -P tools/release_notes.py $(TAG)
