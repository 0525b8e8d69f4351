# make run    start the app on http://127.0.0.1:7860
# make test   check style and run every test
# make soak   300 jobs on one running app; memory and disk must stay flat
#
# Both make .venv and install into it first; a second run starts at once. PYTHON chooses the interpreter (3.10 or newer),
# PORT the app's port, WORKERS how many processes share the tests (each needs about 1.5 GB).

PYTHON ?= python3
PORT ?= 7860
WORKERS ?= 2
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: run test soak clean
.DEFAULT_GOAL := run

run: $(VENV)/installed
	GRADIO_SERVER_PORT=$(PORT) $(VENV)/bin/python app.py

# One thread keeps small tensors quick, and the same numbers come out on every machine.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/installed-for-tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: export OMP_NUM_THREADS = 1
soak: $(VENV)/installed-for-tests
	$(VENV)/bin/python tests/soak.py

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The stamps are younger than the lists they were installed from, so a changed list installs again.
$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(PIP) install -r requirements.txt
	touch $@

$(VENV)/installed-for-tests: pyproject.toml $(VENV)/installed
	$(PIP) install -e ".[test]"
	touch $@
