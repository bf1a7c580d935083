# Each target sets up .venv as needed; repeated runs are quick.
# Requirements: make, and Python 3.11 or newer with venv and pip.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
AUDIT := .venv-audit
PIP_INSTALL := -m pip install --disable-pip-version-check
PARITY_PIP := $(PARITY)/bin/python $(PIP_INSTALL)

# The torch build of `make test`. Without an NVIDIA GPU the CPU build is enough (0.2 GB to download, 2.5 GB with CUDA). If
# its index cannot be reached, pip installs the build of its default index. TORCH_INDEX= always uses the default index;
# TORCH_INDEX=https://download.pytorch.org/whl/cu126 is for drivers older than 580 (docs/quick-start-gpu.md).
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

# Branch coverage of the daemon by its tests, in every process that they start. The minimum is in pyproject.toml.
coverage: $(VENV)/test.installed
	@sh .ci/system_packages.sh mosquitto systemd-analyze:systemd
	@$(PYTEST) --cov --cov-report=term tests/daemon

# Tests that need neither processes nor models, for frequent runs during development.
quick: $(VENV)/test.installed
	@$(PYTEST) $(QUICK)

# Tests the GPU kernels without a GPU, with Triton's interpreter and compiler; takes minutes.
kernels: $(VENV)/test.installed
	@$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) triton
	@$(PYTEST) -m kernels tests/engine

# Tests the service under systemd in a container over this machine's file system; needs root.
boot: $(VENV)/test.installed
	@sh .ci/system_packages.sh systemd-nspawn:systemd-container
	@sh .ci/boot.sh $(BIN)/python

# Compares the engine with the qwen-tts reference package in a separate environment. PARITY_SEED=n repeats a run.
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

# Known vulnerabilities of the pinned packages, from PyPI's database. It needs a network and is not part of `make test`.
audit: $(AUDIT)/installed
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --disable-pip --no-deps --strict --progress-spinner off

$(AUDIT)/installed: Makefile
	$(call venv,$(AUDIT))
	@echo "installing pip-audit into $(AUDIT) ..."
	@$(AUDIT)/bin/python $(PIP_INSTALL) 'pip-audit>=2.9,<3'
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY) $(AUDIT) out

# torch is installed first and pinned; --no-deps, because the 12 Hz models need few of the reference's requirements.
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
		|| echo "$(TORCH_INDEX) cannot be used; installing torch from the default index, possibly with CUDA (5 GB) ..." >&2
endif
	@$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) '$(TORCH_SPEC)'
	@touch $@

# $(call venv,DIRECTORY): create the virtual environment if it does not exist.
define venv
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv was not found (Debian: apt install python3-venv)" >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@{ grep -v '^torch==' constraints.txt; echo '$(TORCH_SPEC)'; } > $(1)/constraints.txt
endef
