# `make` lists the targets. Another Python for the set-up: make setup PYTHON=python3.11

# A finished .venv keeps its Python, unless one is named.
FOUND := $(wildcard .venv/bin/python)
RUNNER := $(or $(PYTHON),$(and $(wildcard .venv/focal_mm-setup.json),$(FOUND)),python3)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-training lint format check-env

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## Make .venv from the pinned versions (compiles mmcv the first time)
	@command -v $(RUNNER) >/dev/null || { echo "set-up stopped: no $(RUNNER) on the PATH; name one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(RUNNER) tools/setup_env.py $(if $(PYTHON),--this-python)

demo: setup  ## Train, evaluate and draw Mask R-CNN with Focal-Tiny on toy data
	.venv/bin/python demo/train_demo.py

test: lint  ## Check the style and run the quick tests
	.venv/bin/python -m pytest -m "not slow"

test-all: lint  ## Check the style and run all tests but the trainings
	.venv/bin/python -m pytest -m "not training"

test-training: setup  ## Train on toy data to the expected marks (minutes each)
	.venv/bin/python -m pytest -m training

lint: setup  ## Check style and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: setup  ## Mend style and format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

check-env: setup  ## Show versions, devices and which attention backends can run
	.venv/bin/python tools/check_env.py
