# `make demo` and `make test` do all the set-up: a fresh machine needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check bench docs clean

demo: $(INSTALLED)
	$(BIN)/trustq demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	.ci/tests

bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/run.py
	$(BIN)/python tests/benchmarks/bench_stats.py --out tests/benchmarks/results_stats.md
	$(BIN)/python tests/benchmarks/bench_heads.py --repeats 3 --peers newton --labels noisy
	$(BIN)/python tests/benchmarks/bench_heads.py --only sets --penalties .001,.01 --peer-threads 1 --repeats 3
	$(BIN)/python tests/benchmarks/bench_growth.py --small

# Writes what is generated and kept, the command-line reference, and builds the site.
docs: $(INSTALLED)
	$(BIN)/python -m trustq.cli.reference > cli/README.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f docs/mkdocs.yml

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch and torchvision come from one index in one step, so that their builds fit each other.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trustq needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing trustq with torch and timm (about 6 GB the first time) ..."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@# The clone itself is on the path, so that a start in its parent finds it before an empty namespace.
	@echo "$(CURDIR)" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/trustq-clone.pth"
	@touch $@
