# make setup | train | test | test-all | lint | types | docs | dist | wheel | bench | results | report | reproduce
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.up-to-date
BUSY := $(VENV)/.installing

.PHONY: setup train test test-all lint types docs dist wheel check bench results report reproduce clean

# Does nothing when pyproject.toml is older than the last finished installation. An installation that was
# stopped half-way leaves its mark behind and is made anew, since pip cannot tell half a package from a whole one.
setup: $(DONE)

$(DONE): pyproject.toml
	@if [ -e $(BUSY) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "making $(VENV)"; rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); fi
	@touch $(BUSY)
	@echo "installing (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@rm -f $(BUSY) && touch $(DONE)

train: setup
	$(BIN)/python train.py $(ARGS)

# JOBS files of tests side by side: each takes a core, and 1 to 2 GB of memory. JOBS=0: in one process, for a debugger.
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

test: setup
	$(PYTEST) $(ARGS)

test-all: setup
	$(PYTEST) -m 'slow or not slow' $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

types: setup
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What would be uploaded: the source archive, the wheel made from it, and whether the index would take them.
dist: setup
	rm -rf dist
	$(BIN)/python -m build --quiet --no-isolation .
	$(BIN)/twine check --strict dist/*

# The wheel as users get it: in an environment that holds nothing else, from an empty folder. Installed anew, but for torch
# and CUDA: they are 5 GB, and would be the very files that $(VENV) has.
EMPTY := build/empty
LENT := -name torch -o -name 'torch-*' -o -name torchgen -o -name functorch -o -name 'triton*' -o -name 'nvidia*' -o -name 'cuda*'
wheel: dist
	rm -rf $(EMPTY) && mkdir -p $(EMPTY)/lent && $(BIN)/python -m venv $(EMPTY)/venv
	find $(VENV)/lib/python3*/site-packages -maxdepth 1 \( $(LENT) \) -exec ln -s "$$PWD/{}" $(EMPTY)/lent/ \;
	for folder in $(EMPTY)/venv/lib/python3*/site-packages; do echo "$$PWD/$(EMPTY)/lent" >"$$folder/lent.pth"; done
	$(EMPTY)/venv/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd $(EMPTY) && venv/bin/wmlightning-train dataset=procedural trainer.max_epochs=1 attack=prune
	cd $(EMPTY) && venv/bin/wmlightning-verify --help >help.txt && venv/bin/python -m wmlightning.results runs
	cd $(EMPTY) && venv/bin/python -c 'import wmlightning; print(wmlightning.Watermark, wmlightning.make_key)'
	rm -rf $(EMPTY)

check: lint types docs test

# A quarter of an hour. What is printed is kept in experiments/bench/results.txt and shown in README.md.
bench: setup
	$(BIN)/python experiments/bench/run.py $(ARGS)

results: setup
	$(BIN)/python -m wmlightning.results $(ARGS)

report: setup
	$(BIN)/python -m wmlightning.report $(ARGS)

# SCALE=smoke (embedded digits) or paper; SEEDS="0 1 2".
reproduce: setup
	PYTHON=$(BIN)/python sh experiments/asiaccs2018/run.sh

clean:
	rm -rf $(VENV) build dist site *.egg-info
