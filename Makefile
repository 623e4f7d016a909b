PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SAMPLE := datasets/sample/generated

.PHONY: demo test test-all coverage lint clean

demo: $(VENV)/installed $(SAMPLE) $(SAMPLE)/backbone  ## look at the sample's pictures, train on them, print scores and a predicted tweet
	rm -rf outputs/demo
	$(BIN)/python run_mner.py configs/sample.yaml --output_dir outputs/demo

test: $(VENV)/installed-dev  ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest

coverage: $(VENV)/installed-dev  ## which lines and branches all tests run, those that other processes run among them
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## all that was installed, generated or cached; trained models in outputs/ stay
	rm -rf $(VENV) $(SAMPLE) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SAMPLE): | $(VENV)/installed
	$(BIN)/python datasets/sample/make_sample.py

$(SAMPLE)/backbone: | $(SAMPLE)
	$(BIN)/python datasets/sample/make_eyes.py

# The stamps are newer than pyproject.toml exactly when what it asks for is installed.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e ".[demo]"
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e ".[dev]"
	touch $(VENV)/installed $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
