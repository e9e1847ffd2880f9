# Two commands do everything on a fresh machine with python3.11+ and make: `make run`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint format typecheck bench-overhead bench-memory bench-engines bench-coder bench-calibration bench-frontier bench-speed bench-battery bench-emotion bench-proposers bench-fidelity bench-dashboard bench-formats bench-four-bits bench-pcqat bench kill-test ray-kill-test loader-test picture screenshots clean help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

run: $(STAMP)-run ## install, then search the embedded default for a file within 250 KB
	$(BIN)/search run --budget-kb 250 --target m1 --workers 2 --timeout 240

test: $(STAMP) ## install, then run the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) ## mypy --strict on the four packages
	$(BIN)/mypy

bench-dashboard: $(STAMP) ## first paint, sliders and memory of the dashboard; needs Chromium
	$(BIN)/python -m bench.dashboard

screenshots: $(STAMP) ## pictures of every page into docs/images; needs Chromium
	$(BIN)/python -m bench.screenshots

bench: bench-overhead bench-memory bench-coder ## every bench; tables go to bench/results

bench-formats: $(STAMP) ## bytes, accuracy and latency in each file format; ONLY runs one workload
	$(BIN)/python -m bench.formats

bench-four-bits: $(STAMP) ## a dense layer of 4-bit weights in each form that ONNX Runtime and LiteRT have
	$(BIN)/python -m bench.four_bits

bench-overhead: $(STAMP) ## proposal time, loop and record overhead
	$(BIN)/python -m bench.overhead

bench-memory: $(STAMP) ## peak memory of the driver and of a worker
	$(BIN)/python -m bench.memory

bench-engines: $(STAMP) ## trials a second, cost and efficiency of each engine; a sweep of 256 workers; PARTS
	$(BIN)/python -m bench.engines $(PARTS)

bench-calibration: $(STAMP) ## error of the fitted latency model on networks it did not see
	$(BIN)/python -m bench.calibration

bench-coder: $(STAMP) ## bytes, speed and memory of the packed coder
	$(BIN)/python -m bench.coder

bench-frontier: $(STAMP) ## smallest files found by search on MNIST; ONLY=lenet300 runs a part, all resume
	$(BIN)/python -m bench.frontier

bench-speed: $(STAMP) ## files found for x86, timed beside fp32 in ONNX Runtime; ONLY, SEARCH_DATA
	$(BIN)/python -m bench.speed

bench-pcqat: $(STAMP) ## TFMOT's fixed recipe on its tutorial's network beside the search; resumes
	$(BIN)/python -m bench.pcqat

bench-battery: $(STAMP) ## the two-headed network of charging cells, compressed; SEARCH_DATA, resumes
	$(BIN)/python -m bench.battery

bench-emotion: $(STAMP) ## the emotion LSTM compressed, beside a published thesis; SEARCH_DATA, resumes
	$(BIN)/python -m bench.emotion

bench-fidelity: $(STAMP) ## rank correlations of short and full fine-tuning; ONLY runs one network
	$(BIN)/python -m bench.fidelity

bench-proposers: $(STAMP) ## proposers compared, on the simulator and on real networks; ONLY, METHODS, SEEDS
	$(BIN)/python -m bench.proposers

kill-test: $(STAMP) ## kill -9 at 40 random instants; prints the table of phases
	$(BIN)/python -m bench.kills

ray-kill-test: $(STAMP) ## kill -9 of workers, raylets and drivers in a Ray cluster of three nodes
	$(BIN)/python -m bench.ray_kills

loader-test: $(STAMP) ## loader snippets in clean environments with only the runtime; ONLY runs one format
	$(BIN)/python -m bench.loaders

picture: $(STAMP) ## make README's picture again from the latest study
	$(BIN)/python -m bench.picture

# Enough for `make run`: a few packages instead of every extra, TensorFlow among them.
$(STAMP)-run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dashboard,coreml]'
	touch $(STAMP)-run

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,dashboard,ray,tune,s3,postgres,onnx,coreml,keras,litert,images]'
	touch $(STAMP) $(STAMP)-run

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
