# `make demo` and `make test` need Python 3.11 or newer, make and a package index; nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test lint bench clean

help:
	@echo "make demo   set up, draw a small data set, train on it, evaluate, and find events in an unseen video"
	@echo "make test   set up and run the tests"
	@echo "make lint   set up and run ruff and mypy"
	@echo "make bench  set up and measure what the README claims, into benchmarks/results.md (takes long)"
	@echo "make clean  remove what demo and test made (not $(VENV), and no results of yours)"

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "== Setting up $(VENV) (PyTorch is several GB; later runs skip this)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The demo's network is so small that threads cost more than they bring.
demo: export OMP_NUM_THREADS = 1
demo: $(INSTALLED)
	@echo "== 1/4 Drawing a synthetic data set in demo/data"
	$(BIN)/python scripts/make_synthetic_dataset.py --output demo/data --overwrite \
		--num-train 400 --num-val 40 --num-test 48 --duration 20 \
		--events-per-minute 8 --distractors-per-minute 2
	@echo "== 2/4 Training; watch it with: $(BIN)/tensorboard --logdir demo/logs"
	$(BIN)/python train.py --config configs/demo.yaml --device cpu
	@echo "== 3/4 Evaluating on unseen videos"
	$(BIN)/python scripts/evaluate.py --config configs/demo.yaml --device cpu \
		--checkpoint demo/checkpoints/best_checkpoint.pt \
		--annotations demo/data/test/annotations.json --output demo/metrics.json
	@echo "== 4/4 Finding events in one unseen video"
	$(BIN)/python inference.py --config configs/demo.yaml --device cpu \
		--checkpoint demo/checkpoints/best_checkpoint.pt \
		--video demo/data/test/video_000.mp4 --output demo/analysis.json

test: $(INSTALLED)
	@echo "== Running the tests"
	$(BIN)/python -m pytest -n 2 -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks

clean:
	rm -rf demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
