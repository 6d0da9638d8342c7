# The SeMi study. `make` alone lists the targets. GNU make 3.81 and a POSIX shell are enough.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
STARTED := $(VENV)/.installing
NOTEBOOKS := build/nbval
# Three processes of one thread, for two cores: some tests wait for a browser, a scheduler or a process that was killed. Each takes whole
# files (the cells of a notebook belong together) in the order of tests/conftest.py.
# What they compile of Python is kept, also where the environment says otherwise: dozens of processes of the tests import it.
KEEP := PYTHONDONTWRITEBYTECODE=
AT_ONCE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test torture docs lab clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' Makefile
	@echo "The first of quickstart, test, docs and lab also installs what they need into $(VENV) (Linux: about 6 GB, a few minutes)."
	@echo "Another Python than python3: make PYTHON=python3.12 quickstart"

quickstart: $(STAMP) ## run notebooks/00_quickstart.ipynb from start to end, with live progress
	$(VENV)/bin/python -m semilib quickstart

test: $(STAMP) ## lint, check types, then run the tests and, with small parameters, every notebook
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	rm -rf $(NOTEBOOKS)
	$(VENV)/bin/python -m semilib smoke-notebooks $(NOTEBOOKS)
	$(KEEP) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(AT_ONCE) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 tests $(NOTEBOOKS)

torture: $(STAMP) ## kill runs, damage files, give bad input for 20 minutes (MINUTES=600); again goes on; one table
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/torture.py --minutes $(or $(MINUTES),20)

docs: $(STAMP) ## build the documentation site, offline and from stored outputs, and print where it is
	$(VENV)/bin/python docs/build.py build/docs

lab: $(STAMP) ## open working copies of the notebooks in JupyterLab (LAB=--allow-root: as root)
	$(VENV)/bin/python -m semilib copies lab
	$(VENV)/bin/jupyter lab $(LAB) lab

clean: ## delete caches and build/ (keeps .venv, data, runs and results)
	rm -rf build .pytest_cache .ruff_cache *.egg-info
	find semilib tests notebooks -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# The mark STARTED, which holds the process of the make that installs, becomes STAMP when all is installed. A STARTED of a
# process that is gone is an interrupted installation: begin again.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "There is no \"$(PYTHON)\" here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; \"$(PYTHON)\" is $$("$(PYTHON)" --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "\"$(PYTHON)\" cannot make virtual environments (its modules venv and ensurepip are missing)." >&2; \
	  echo "On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@if [ -e $(STARTED) ] && kill -0 "$$(cat $(STARTED))" 2>/dev/null; then \
	  echo "Another make (process $$(cat $(STARTED))) is installing into $(VENV). Wait until it has finished." >&2; exit 1; fi
	@if [ -e $(STARTED) ]; then echo "An earlier installation did not finish: beginning again."; rm -rf $(VENV); fi
	@echo "Installing torch, JupyterLab and the rest into $(VENV), once. It takes a few minutes and, on Linux, where torch"
	@echo "brings its CUDA libraries, about 6 GB of disk and a download of half that. To undo it: rm -rf $(VENV)"
	@mkdir -p $(VENV) && rm -f $(STAMP) && echo $$PPID > $(STARTED)
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test]"
	@mv $(STARTED) $(STAMP)
