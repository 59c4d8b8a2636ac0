# make demo | make check | make test | make fuzz | make soak | make reliability | make quality | make bench | make gpu | make mockgpu | make docs | make lint | make format | make wheels | make try-wheels
PYTHON ?= python3
TORCH ?= 2.13.0
JOBS ?= 2
# One environment for each version of torch: .venv, .venv-2.14.1 and so on.
VENV := .venv$(patsubst %,-%,$(filter-out 2.13.0,$(TORCH)))
BIN := $(VENV)/bin
# Compiles what changed in csrc into cyclegan_fast/, without pip.
EXTENSION := $(BIN)/python setup.py --quiet build_ext --inplace
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo check test wheels try-wheels bench quality fuzz soak gpu mockgpu docs reliability lint format extension clean

demo: $(VENV)/.ready
	$(EXTENSION)
	$(BIN)/python -m cyclegan_fast.demo --out runs/demo

# A minute: the linters, the operators, the networks, the step against its plain restatement, a training run.
CHECKED := tests/test_layers.py tests/ops tests/nn tests/training/test_step.py \
    tests/training/test_train_command.py::test_fifty_iterations_on_mixed_sizes
check: lint extension
	$(PYTEST) -n $(JOBS) -m "not slow" $(CHECKED)

test: lint extension
	$(PYTEST) -n $(JOBS)

# An sdist and a wheel, for this Python and every torch since 2.11, into dist/.
wheels: $(VENV)/.ready-release
	$(BIN)/python tools/wheels.py

# Both, installed into empty environments beside each of these versions of torch, and used there.
TORCHES ?= 2.11.0 2.13.0 2.14.1
try-wheels:
	$(PYTHON) tools/try_wheels.py $(TORCHES)

bench: extension
	$(BIN)/python -m pytest benchmarks/ --benchmark-only

# Trains the scenes in every way that is faster, 8 seeds each, and fails where one costs quality (docs/quality.md).
quality: extension
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.quality

# For a host with a GPU and, maybe, no network: uses that host's own Python and torch, and installs nothing.
gpu:
	$(PYTHON) benchmarks/gpu.py $(PARTS)

# Damaged and hostile files for every reader, at random, for MINUTES; finds lie in build/fuzz (tests/fuzz).
MINUTES ?= 30
fuzz: extension
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES)

# Trains, kills, resumes and translates at random for MINUTES; memory, threads and files stay flat (docs/results/soak.md).
soak: extension
	nice -n 19 $(BIN)/python -m tools.soak --minutes $(MINUTES)

# The CUDA path on a machine without a GPU; PYTHON is one with a CUDA build of torch (tests/mock_cuda).
mockgpu:
	$(PYTHON) -m tests.mock_cuda

# The documentation, in site/: open site/index.html.
docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# docs/reliability.md: runs the test of every fault, and writes what the user sees.
reliability: extension
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*' 'tests/*' | grep -E '\.(h|cuh|cu|cpp)$$')

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*' 'tests/*' | grep -E '\.(h|cuh|cu|cpp)$$')

# What developers run is the extension, whole: no plain torch instead, and no kernel that spills registers.
check test bench quality mockgpu extension $(VENV)/.ready-dev $(VENV)/.ready-release: export CYCLEGAN_FAST_REQUIRE_EXT := 1
check test bench quality mockgpu extension $(VENV)/.ready-dev $(VENV)/.ready-release: export CYCLEGAN_FAST_NO_SPILLS := 1
# Two targets that every GPU runs on; the four of an install compile in twice the time (CI does).
check test bench quality mockgpu extension $(VENV)/.ready-dev: export CYCLEGAN_FAST_CUDA_ARCHS ?= 80+PTX 90a
# As in the wheel, which then finds its objects in ccache.
$(VENV)/.ready-release: export CYCLEGAN_FAST_CUDA_ARCHS := 80 90a 100 120+PTX
extension: $(VENV)/.ready-dev
	$(EXTENSION)

clean:
	rm -rf build *.egg-info cyclegan_fast/*.so

# The package, built without isolation so that exactly one torch is installed.
$(VENV)/.ready: EXTRAS := onnx
$(VENV)/.ready-dev: EXTRAS := onnx,openvino,deep,dali,dev
$(VENV)/.ready-release: EXTRAS := dev,release
$(VENV)/.ready $(VENV)/.ready-dev $(VENV)/.ready-release: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==$(TORCH)" "setuptools>=77" "cmake>=3.24" ninja "pybind11>=2.13"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $(VENV)/.ready $@
