# make demo | make test | make bench | make gpu | make lint
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0
JOBS ?= 2

.PHONY: demo test bench gpu lint format clean

demo: $(VENV)/.ready
	$(BIN)/python -m cyclegan_fast.demo --out runs/demo

test: $(VENV)/.ready-dev lint
	OMP_NUM_THREADS=1 CYCLEGAN_FAST_REQUIRE_EXT=1 $(BIN)/python -m pytest -n $(JOBS)

bench: $(VENV)/.ready-dev
	$(BIN)/python -m pytest benchmarks/ --benchmark-only

# For a host with a GPU and, maybe, no network: uses that host's own Python and torch, and installs nothing.
gpu:
	$(PYTHON) benchmarks/gpu.py $(PARTS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*' 'tests/cpp/*' | grep -E '\.(h|cuh|cu|cpp)$$')

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*' 'tests/cpp/*' | grep -E '\.(h|cuh|cu|cpp)$$')

clean:
	rm -rf build *.egg-info cyclegan_fast/*.so

# The package and its extension, built without isolation so that exactly one torch is installed.
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml

$(VENV)/.ready: EXTRAS := onnx
$(VENV)/.ready-dev: EXTRAS := onnx,openvino,deep,dali,dev
$(VENV)/.ready $(VENV)/.ready-dev: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==$(TORCH)" "setuptools>=77" wheel ninja "pybind11>=2.13" numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $(VENV)/.ready $@
