# make demo    upscale real photographs (installs what the program needs)
# make quick   style, types and the quick tests: under 10 minutes on 2 cores
# make test    style, types and all tests but the slowest (installs what the tests need, too)
# make test-all    that, and what takes an hour: every command of the README and of docs/, and what it promises of the quickstart
# make docs    the documentation as a web site, in build/docs; warnings are errors
# make test-tpu-compile    training steps compiled for every kind of TPU, as the documentation does it, with no TPU (installs libtpu)
# make test-gpu-compile    the training step and inference compiled for NVIDIA GPUs, with no GPU (installs CUDA, 5.5 GB)
# make kernels    the CPU kernels compiled again, after a change of the compiler
# make test-native    the kernels' C++ under sanitizers, for each level of vector instructions that this CPU has; and those for GPUs
#
# The first call makes an environment in .venv; later calls need no network.

# Another Python: make test PYTHON=python3.13
PYTHON ?= python3.11
VERSION := $(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
ifeq ($(VERSION),)
$(error There is no $(PYTHON) here: make PYTHON=python3.13 ..., or whatever it is called)
endif
# The versions that were tested together. JAX 0.11 and newer need Python 3.12.
PINS := constraints/$(if $(filter python3.11,$(VERSION)),python3.11,python3.12).txt
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS)
# One test process for each core.
WORKERS ?= auto
# Other weights for the demo: make demo WEIGHTS=model.pth
WEIGHTS ?=
# Where the demo looks for Set5.
SET5 ?= $(firstword $(wildcard data/Set5 ../shared/data/benchmark/Set5))

NATIVE := seemore_jax/network/implementations/native

# Where libtpu is: not in $(VENV), where JAX would look for a TPU at each start.
TPU_VENV := build/tpu-venv
# Where CUDA is: another environment, for the same reason.
GPU_VENV := build/gpu-venv

.PHONY: demo docs kernels quick test test-all test-native test-tpu-compile test-gpu-compile lint types unit constraints clean

kernels: $(VENV)/runtime
	$(PIP) --no-deps --editable .

demo: $(VENV)/runtime
	$(BIN)/python -m seemore_jax demo $(if $(WEIGHTS),--model $(WEIGHTS)) $(if $(SET5),--data $(SET5)) --output build/demo

quick: lint types
	$(BIN)/pytest -n $(WORKERS) -m "not slow and not thorough"

test: lint types unit

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test
	$(BIN)/mypy

unit: $(VENV)/test
	$(BIN)/pytest -n $(WORKERS)

docs: $(VENV)/docs
	$(BIN)/python -m sphinx --quiet --nitpicky --fail-on-warning --keep-going docs build/docs
	@echo build/docs/index.html

test-native: $(VENV)/test
	$(MAKE) -C tests/native -j2 XLA="$$($(BIN)/python -c 'import jax; print(jax.ffi.include_dir())')"
	$(BIN)/pytest -n 0 tests/native/test_gpu_kernels.py

# In one process: commands of the documentation read what others have written, and one has a time limit.
test-all: test
	$(BIN)/pytest -m slow --durations=0

test-tpu-compile: $(TPU_VENV)/libtpu
	JAX_PLATFORMS=cpu SEEMORE_TPU_COMPILE=1 SEEMORE_REQUIRE=libtpu $(TPU_VENV)/bin/python -m pytest -n 2 -rA tests/ahead_of_time/test_libtpu.py

test-gpu-compile: $(GPU_VENV)/cuda
	JAX_PLATFORMS=cpu SEEMORE_GPU_COMPILE=1 SEEMORE_REQUIRE=cuda $(GPU_VENV)/bin/python -m pytest -rA tests/ahead_of_time/test_cuda.py

$(GPU_VENV)/cuda: $(VENV)/test
	$(PYTHON) -m venv --clear $(GPU_VENV)
	echo $(abspath $(VENV))/lib/python*/site-packages > $$(echo $(GPU_VENV)/lib/python*/site-packages)/test.pth
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS) 'jax[cuda12]'
	touch $@

$(TPU_VENV)/libtpu: $(VENV)/test
	$(PYTHON) -m venv --clear $(TPU_VENV)
# A .pth file lends it the packages of $(VENV).
	echo $(abspath $(VENV))/lib/python*/site-packages > $$(echo $(TPU_VENV)/lib/python*/site-packages)/test.pth
	$(TPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps libtpu==0.0.42.1
	touch $@

# The files in $(VENV) mark finished steps: an interrupted installation is repeated. The first is named after the
# Python, so that another Python makes another environment.
$(VENV)/$(VERSION):
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# The last step of each installation compiles the kernels, so that a change of their sources repeats it.
INSTALLED := $(VENV)/$(VERSION) requirements.txt $(PINS) pyproject.toml CMakeLists.txt $(wildcard $(NATIVE)/*.cc $(NATIVE)/*.h)

$(VENV)/runtime: $(INSTALLED)
	$(PIP) --editable '.[train]'
	touch $@

$(VENV)/docs: $(INSTALLED)
	$(PIP) --editable '.[train,docs]'
	touch $@ $(VENV)/runtime

$(VENV)/test: $(INSTALLED)
	$(PIP) --editable '.[train,docs,test]'
# The oracle declares training frameworks as dependencies that its network does not need. Of the other package, only the
# file axe.min.js is used, which needs no Playwright.
	$(PIP) --no-deps seemore==0.1.0 axe-playwright-python==0.1.8
	touch $@ $(VENV)/docs $(VENV)/runtime

# Pins what is installed now: after an upgrade that passes the tests, once with Python 3.11 and once with 3.13.
constraints: $(VENV)/test
	$(BIN)/python -m pip freeze --exclude-editable --exclude torch --exclude seemore --exclude axe-playwright-python --exclude setuptools | grep -v -i -E '^(cuda|nvidia|triton)' > $(PINS)

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .hypothesis
