# Each target does all of its own set-up in .venv and is quick when nothing has changed.
# It needs python3.11 or newer (with venv and pip) and make.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
AUDIT := .venv-audit
PIP_INSTALL := -m pip install --disable-pip-version-check
PARITY_PIP := $(PARITY)/bin/python $(PIP_INSTALL)

# The torch that `make test` uses. Without an NVIDIA GPU its CPU build is enough (0.2 GB to download, against 2.5 GB with
# CUDA); where that index cannot be reached, pip installs the build that it finds. TORCH_INDEX= always takes pip's own.
TORCH_SPEC ?= $(shell grep '^torch==' constraints.txt)
CONSTRAINTS := $(VENV)/constraints.txt
TORCH_INDEX ?= $(if $(wildcard /dev/nvidiactl /dev/dxg),,https://download.pytorch.org/whl/cpu)
TEXT ?= The kettle has boiled, the washing machine is done, and it will rain at six. Good evening!

# A directory or a hub id: `make demo MODEL=Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice` speaks with the model.
MODEL ?=
COMMA := ,
DEMO_EXTRAS := $(if $(MODEL),espeak$(COMMA)engine,espeak)

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
QUICK := tests/docs/test_pages.py $(addprefix tests/daemon/,announcements audio config text voices test_blueprint.py http/test_recordings.py \
	$(addprefix mqtt/test_,commands.py discovery.py preferences.py publisher.py) workers/test_queue.py \
	wyoming/test_exchange.py wyoming/test_wire.py) \
	$(addprefix tests/engine/,prompt paged/test_block_pool.py paged/test_block_manager.py model/test_config.py \
	$(addprefix scheduler/test_,chunking.py edges.py sequence.py) worker/test_selection.py worker/test_espeak_text.py)

.PHONY: demo run test coverage quick kernels boot parity lint bench audit clean

demo: $(VENV)/$(DEMO_EXTRAS).installed
	@sh .ci/demo.sh $(BIN)/qwentts-daemon out/demo.wav "$(TEXT)" "$(MODEL)"

run: $(VENV)/$(DEMO_EXTRAS).installed
	@$(BIN)/qwentts-daemon run $(if $(MODEL),--set engine.model=$(MODEL))

test: $(VENV)/test.installed
	@sh .ci/system_packages.sh mosquitto systemd-analyze:systemd
	@$(PYTEST) --durations=20

# Branch coverage of the daemon by its own tests, in every process that they start, and its gate: pyproject.toml.
coverage: $(VENV)/test.installed
	@sh .ci/system_packages.sh mosquitto systemd-analyze:systemd
	@$(PYTEST) --cov --cov-report=term tests/daemon

# What needs neither processes nor models: for every change, while it is being made.
quick: $(VENV)/test.installed
	@$(PYTEST) $(QUICK)

# The GPU's kernels without a GPU, by Triton's interpreter and compiler: some minutes.
kernels: $(VENV)/test.installed
	@$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) triton
	@$(PYTEST) -m kernels tests/engine

# The service under a real systemd: boots a container over this machine's own files, for which it must be root.
boot: $(VENV)/test.installed
	@sh .ci/system_packages.sh systemd-nspawn:systemd-container
	@sh .ci/boot.sh $(BIN)/python

# Ours against the qwen-tts reference package, which gets an environment of its own. PARITY_SEED=n repeats a run.
parity: $(PARITY)/installed
	@$(PARITY)/bin/python -m pytest -n 2 tests/parity

lint: $(VENV)/test.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python .ci/house_rules.py
	@$(BIN)/python .ci/words.py

bench: $(VENV)/test.installed
	@$(BIN)/python -m tests.benchmarks.daemon
	@$(BIN)/python -m tests.benchmarks.workers
	@sh .ci/system_packages.sh mosquitto
	@$(BIN)/python -m tests.benchmarks.mqtt

# Known weaknesses of the pinned packages, from PyPI's own database: it needs a network and is no part of the tests.
audit: $(AUDIT)/installed
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --disable-pip --no-deps --strict --progress-spinner off

$(AUDIT)/installed: Makefile
	$(call venv,$(AUDIT))
	@echo "installing pip-audit into $(AUDIT) ..."
	@$(AUDIT)/bin/python $(PIP_INSTALL) 'pip-audit>=2.9,<3'
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY) $(AUDIT) out

# torch comes first and stays: the reference's own list of packages would pull in much that its 12 Hz half never uses.
$(PARITY)/installed: Makefile
	$(call venv,$(PARITY))
	@echo "installing the reference package into $(PARITY) ..."
	@$(PARITY_PIP) torch==2.13.0
	@$(PARITY_PIP) --no-deps qwen-tts-hf==0.1.1.post1
	@echo torch==2.13.0 > $(PARITY)/constraints.txt
	@$(PARITY_PIP) -c $(PARITY)/constraints.txt transformers==5.17.0 accelerate==1.12.0 soundfile librosa xxhash cachetools
	@$(PARITY_PIP) -c $(PARITY)/constraints.txt pytest pytest-asyncio pytest-timeout pytest-xdist hypothesis
	@touch $@

$(VENV)/%.installed: pyproject.toml constraints.txt
	$(call venv,$(VENV))
	@echo "installing qwentts-daemon[$*] into $(VENV) ..."
	@$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[$*]'
	@touch $@

$(VENV)/test.installed: $(VENV)/torch.installed

$(VENV)/torch.installed: constraints.txt
	$(call venv,$(VENV))
ifneq ($(TORCH_INDEX),)
	@echo "installing $(TORCH_SPEC) into $(VENV) from $(TORCH_INDEX) ..."
	@$(BIN)/python $(PIP_INSTALL) --retries 1 --timeout 15 --no-deps --index-url $(TORCH_INDEX) '$(TORCH_SPEC)' \
		|| echo "$(TORCH_INDEX) cannot be used; installing the torch that pip finds, perhaps with CUDA (5 GB) ..." >&2
endif
	@$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) '$(TORCH_SPEC)'
	@touch $@

# $(call venv,DIRECTORY): a virtual environment, if it is not there yet.
define venv
	@test -n "$(PYTHON)" || { echo "python 3.11 or newer with venv is needed (Debian: apt install python3-venv)" >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@{ grep -v '^torch==' constraints.txt; echo '$(TORCH_SPEC)'; } > $(1)/constraints.txt
endef
