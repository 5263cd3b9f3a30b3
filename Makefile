# make demo and make test work on a fresh machine that has Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow test-cluster cluster-tools lint docs lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "fg needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; give another: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

demo: setup
	$(BIN)/fgcli bench demo --out runs/demo --jobs 2
	$(BIN)/fgcli report runs/demo --html runs/demo/report.html

test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow and not cluster'

# What starts many processes, runs the pages' commands or installs packages: no change of a method needs it each time. CI
# runs it too.
test-slow: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m slow

# Real SLURM and Ray on this machine; as root.
test-cluster: cluster-tools
	$(BIN)/python -m pytest -m cluster --numprocesses 2 --dist loadfile tests/cluster

cluster-tools: setup
	(command -v slurmd && command -v munged && command -v ip) >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends \
	  slurmctld slurmd slurm-client munge iproute2; }
	$(BIN)/python -c 'import ray' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check 'ray>=2.40'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The site, in build/site; with --quiet, --strict would count no warning. It opens from the disk; its search needs a server: python3 -m http.server -d build/site
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The lock file pins what the project and its tests need; make it anew after changing pyproject.toml.
lock: setup
	$(BIN)/pip install --quiet pip-tools
	echo 'torch==2.13.0' > $(VENV)/torch.txt
	$(BIN)/pip-compile --quiet --strip-extras --no-header --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --annotation-style line --extra dev --extra docs --constraint $(VENV)/torch.txt \
	  --output-file requirements.lock pyproject.toml
	sed -i -e '1i # Pinned versions that `make setup` installs. Made by `make lock`.' -e '/^# The following/,$$d' \
	  -e '/^$$/d' -e 's/^\(torch==[0-9.]*\)+cpu/\1/' -e 's#-c $(VENV)/torch.txt, ##' requirements.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
