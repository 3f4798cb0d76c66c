# The commands people type; CMake does the building.
PRESET ?= release
BUILD := build/$(PRESET)
PYTHON := .venv/bin/python

.PHONY: all bootstrap configure build demo test test-quick format docs asan fuzz clean gpu-test

all: build

bootstrap:
	@scripts/bootstrap

configure: bootstrap
	@test -f $(BUILD)/build.ninja || \
	  cmake --preset $(PRESET) -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON) >$(BUILD).log 2>&1 || \
	  { cat $(BUILD).log >&2; exit 1; }

# Builds everything of one preset: make build PRESET=dev.
build: | build-folder
	@$(MAKE) --no-print-directory configure
	@cmake --build $(BUILD)

build-folder:
	@mkdir -p build

# Compiles the tiny model to f32, int8 and int4 and compares them.
demo: build
	@$(PYTHON) scripts/demo.py --bin $(BUILD)/bin

# Every test; the last line is the sum over all runners.
test: build
	@$(PYTHON) scripts/run_tests.py --build $(BUILD)

# The same without the sanitizer builds and the fuzz targets.
test-quick: build
	@$(PYTHON) scripts/run_tests.py --build $(BUILD) --skip fuzz --skip tsan

# Kernels, packages and speed on an NVIDIA GPU; needs its driver alone.
gpu-test: build
	@cmake -B $(BUILD) -DQLM_BUILD_BENCHMARKS=ON >$(BUILD).log 2>&1 || { cat $(BUILD).log >&2; exit 1; }
	@cmake --build $(BUILD) --target qlm-emit-cuda-linears qlm-run-cuda-linears \
	  qlm-emit-cuda-attention qlm-run-cuda-attention
	@$(PYTHON) scripts/gpu_test.py bundle --build $(BUILD) -o $(BUILD)/gpu-test --models
	@$(PYTHON) scripts/gpu_test.py run $(BUILD)/gpu-test

format: bootstrap
	@git ls-files '*.cpp' '*.h' | xargs clang-format-22 -i

# Regenerates docs/generated from the TableGen files.
docs: build
	@$(PYTHON) scripts/generate_docs.py --build $(BUILD) --write

asan:
	@$(MAKE) --no-print-directory build PRESET=asan

clean:
	rm -rf build
