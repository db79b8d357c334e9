# `make demo` and `make test` need only Python >= 3.10 and make; they create .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

# Install this project with the extra $(1): by uv, which unpacks on all cores, or by pip where uv cannot.
define install
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --upgrade pip
$(BIN)/python -m pip install --quiet uv || true
$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --compile-bytecode --editable '.[$(1)]' \
	|| $(BIN)/python -m pip install --quiet --editable '.[$(1)]'
endef

.PHONY: demo test test-nightly check fuzz audit lock docs bench gpu-check clean

$(READY): pyproject.toml
	$(call install,dev)
	touch $(READY)

# Only what the documentation needs, without the runtimes.
$(DOCS_READY): pyproject.toml
	$(call install,docs)
	touch $(DOCS_READY)

DEMO := lenet5 inception_small resnet18_digits

demo: $(READY)  ## train three networks on digits, export, quantize, build engines, evaluate, time, write a report
	$(BIN)/deploy train zoo/lenet5 --data digits
	$(BIN)/deploy train zoo/inception_small --data digits --epochs 10
	$(BIN)/deploy train zoo/resnet18_digits --data digits --epochs 5
	for model in $(DEMO); do $(BIN)/deploy export $$model || exit; done
	for model in $(DEMO); do for target in onnxruntime openvino; do \
		$(BIN)/deploy quantize $$model --calib digits --target $$target || exit; done; done
	$(BIN)/deploy trt build lenet5 --int8 --calib digits
	$(BIN)/deploy evaluate $(DEMO) --data digits
	$(BIN)/deploy bench $(DEMO) --precision fp32,int8 --repetitions 3 --min-time 0.5
	$(BIN)/deploy report
	$(BIN)/deploy verify

check: $(READY)  ## lint, import order, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: check  ## everything that CI runs
	$(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadscope --no-loadscope-reorder

test-nightly: check  ## the slow tests too, and a newcomer's first hour on a terminal
	$(BIN)/pytest
	$(BIN)/python -m benchmarks.newcomer --check

fuzz: $(READY)  ## parse damaged manifests, shapes and options for five minutes
	$(BIN)/python tests/reliability/fuzz.py 300

audit: $(READY)  ## compare the locked versions with the advisories of PyPI
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip --require-hashes

lock: $(READY)  ## write requirements.lock: the installed versions, with hashes
	$(BIN)/python .ci/lock

docs: $(DOCS_READY)  ## build the documentation into build/site; warnings are errors
	$(BIN)/python docs/_hooks.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY)  ## measure the figures in the documentation; takes hours
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.structure
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.architectures
	$(BIN)/python -m benchmarks.zoo
	$(BIN)/python -m benchmarks.harness
	$(BIN)/python -m benchmarks.calibration
	$(BIN)/python -m benchmarks.int8_speed
	$(BIN)/python -m benchmarks.int8_accuracy
	$(BIN)/python -m benchmarks.int8_real --packages build/int8_real  # see its help for the packages
	$(BIN)/python -m benchmarks.tensorrt_build
	$(BIN)/python -m benchmarks.tensorrt_build --overhead
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.report_page
	$(BIN)/python -m benchmarks.serve --work build/serve
	$(BIN)/python -m benchmarks.serve_turns --work build/serve
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.sweep_simulation
	$(BIN)/python -m benchmarks.quote

gpu-check:  ## run, check and time everything that needs an NVIDIA GPU
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTHON) -m benchmarks.gpu_check

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find deploy exporters calibration tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
