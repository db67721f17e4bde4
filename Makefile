# `make` lists the targets. Another Python for the set-up: make setup PYTHON=python3.11

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-training test-upstream lint format docs check-env

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

setup:  ## Make .venv from the pinned versions (compiles mmcv the first time)
	@requirements/setup_env.sh

demo: setup  ## Train, evaluate and draw Mask R-CNN with Focal-Tiny on toy data
	.venv/bin/python -m demo.train

test: lint docs  ## Check style and links, run the quick tests
	.venv/bin/python -m pytest -m "not slow"

test-all: lint  ## Check the style and run all tests but the trainings
	.venv/bin/python -m pytest -m "not training"

test-training: setup  ## Train on toy data to the expected marks (minutes each)
	.venv/bin/python -m pytest -m training

test-upstream:  ## Run the quick tests with the upstream libraries and the oldest torch
	@requirements/setup_env.sh .venv-upstream requirements/upstream.txt
	.venv-upstream/bin/python -m pytest -m "not slow"

lint: setup  ## Check style and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: setup  ## Mend style and format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: setup  ## Build the site into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

check-env: setup  ## Show versions, devices and which attention backends can run
	.venv/bin/python tools/check_env.py
