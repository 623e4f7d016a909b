PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SAMPLE := datasets/sample/generated
# Whole files each, as most fixtures are a file's. `make test WORKERS=` tests in one process.
WORKERS ?= -n 2 --dist loadfile

.PHONY: demo test test-all test-lowest test-newest coverage lint typecheck audit dist clean

demo: $(VENV)/installed $(SAMPLE) $(SAMPLE)/backbone  ## extract features of the sample's pictures, train on them, print scores and a predicted tweet
	rm -rf outputs/demo
	$(BIN)/python run_mner.py configs/sample.yaml --output_dir outputs/demo

# Else the threads of one process wait for the cores of the other.
test test-all test-lowest test-newest coverage: export OMP_NUM_THREADS := 1

test: $(VENV)/installed-dev  ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(WORKERS)

test-lowest: CONSTRAINTS = -c $(VENV)-lowest/constraints.txt
test-lowest test-newest: dist  ## the tests on the wheel, in a venv of its own, with the lowest versions that pyproject.toml allows, or the newest
	$(PYTHON) -m venv --clear $(VENV)-$(@:test-%=%)
	$(PYTHON) .ci/lowest_versions.py > $(VENV)-$(@:test-%=%)/constraints.txt
	$(VENV)-$(@:test-%=%)/bin/python -m pip install $(CONSTRAINTS) "$$(ls dist/*.whl)[dev]"
	$(VENV)-$(@:test-%=%)/bin/pytest -m "not slow" $(WORKERS) # `python -m pytest` would import the checkout

coverage: $(VENV)/installed-dev  ## which lines and branches all tests run, those that other processes run among them
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(WORKERS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/installed-dev  ## pyright on the public modules; it fetches its program from the npm registry once
	$(BIN)/pyright --pythonpath $(BIN)/python

audit: $(VENV)/installed-dev  ## known weaknesses of what is installed; asks PyPI
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/installed.txt

dist: $(VENV)/installed-dev  ## wheel and sdist, built and checked
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:  ## all that was installed, generated or cached; trained models in outputs/ stay
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest $(SAMPLE) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SAMPLE): | $(VENV)/installed
	$(BIN)/python datasets/sample/make_sample.py

$(SAMPLE)/backbone: | $(SAMPLE)
	$(BIN)/python datasets/sample/make_backbone.py

# The stamps are newer than pyproject.toml exactly when what it asks for is installed.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e ".[demo,export]"
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e ".[dev]"
	touch $(VENV)/installed $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
