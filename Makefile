# Each target does all of its own set-up in .venv and is quick when nothing has changed.
# It needs python3.11 or newer (with venv and pip) and make.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
AUDIT := .venv-audit
PARITY_PIP := $(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check
TEXT ?= The kettle has boiled, the washing machine is done, and it will rain at six. Good evening!

# A directory or a hub id: `make demo MODEL=Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice` speaks with the model.
MODEL ?=
COMMA := ,
DEMO_EXTRAS := $(if $(MODEL),espeak$(COMMA)engine,espeak)

.PHONY: demo run test kernels boot parity lint bench audit clean

demo: $(VENV)/$(DEMO_EXTRAS).installed
	@sh tests/demo.sh $(BIN)/qwentts-daemon out/demo.wav "$(TEXT)" "$(MODEL)"

run: $(VENV)/$(DEMO_EXTRAS).installed
	@$(BIN)/qwentts-daemon run $(if $(MODEL),--set engine.model=$(MODEL))

test: $(VENV)/test.installed
	@sh tests/system_packages.sh mosquitto systemd-analyze:systemd
	@$(BIN)/python -m pytest

# The GPU's kernels, computed by Triton's interpreter: some minutes.
kernels: $(VENV)/test.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt triton
	@$(BIN)/python -m pytest -n 2 tests/engine/test_frame_kernels.py tests/engine/test_codec_kernels.py tests/engine/test_ahead.py

# The service under a real systemd: boots a container over this machine's own files, for which it must be root.
boot: $(VENV)/test.installed
	@sh tests/system_packages.sh systemd-nspawn:systemd-container
	@sh tests/boot.sh $(BIN)/python

# Ours against the qwen-tts reference package, which gets an environment of its own. PARITY_SEED=n repeats a run.
parity: $(PARITY)/installed
	@$(PARITY)/bin/python -m pytest tests/parity

lint: $(VENV)/test.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/test.installed
	@$(BIN)/python -m tests.bench_daemon
	@$(BIN)/python -m tests.bench_workers
	@sh tests/system_packages.sh mosquitto
	@$(BIN)/python -m tests.bench_mqtt

# Known weaknesses of the pinned packages, from PyPI's own database: it needs a network and is no part of the tests.
audit: $(AUDIT)/installed
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --disable-pip --no-deps --strict --progress-spinner off

$(AUDIT)/installed: Makefile
	@test -n "$(PYTHON)" || { echo "python 3.11 or newer with venv is needed (Debian: apt install python3-venv)" >&2; exit 1; }
	@test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	@echo "installing pip-audit into $(AUDIT) ..."
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY) $(AUDIT) out

# torch comes first and stays: the reference's own list of packages would pull in much that its 12 Hz half never uses.
$(PARITY)/installed: Makefile
	@test -n "$(PYTHON)" || { echo "python 3.11 or newer with venv is needed (Debian: apt install python3-venv)" >&2; exit 1; }
	@test -x $(PARITY)/bin/python || $(PYTHON) -m venv $(PARITY)
	@echo "installing the reference package into $(PARITY) ..."
	@$(PARITY_PIP) torch==2.13.0
	@$(PARITY_PIP) --no-deps qwen-tts-hf==0.1.1.post1
	@echo torch==2.13.0 > $(PARITY)/constraints.txt
	@$(PARITY_PIP) -c $(PARITY)/constraints.txt transformers==5.17.0 accelerate==1.12.0 soundfile librosa xxhash
	@$(PARITY_PIP) -c $(PARITY)/constraints.txt pytest pytest-asyncio pytest-timeout pytest-xdist hypothesis
	@touch $@

$(VENV)/%.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "python 3.11 or newer with venv is needed (Debian: apt install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing qwentts-daemon[$*] into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@
