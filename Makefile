# make demo: set up, then decompose a trained CNN and patch a weak one on the bundled digits. make test: the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# `make test-portable` runs what another processor, no C++ compiler, or other numbers of threads and seeds can change. Of
# files that are mostly about messages, files and how a stage goes on, it runs the tests named here: whole stages.
IN_PART := $(addprefix tests/, modules/test_sensitivity_scripts.py patching/test_own_weak_model.py \
	patching/test_patch_scripts.py patching/test_saving.py search/test_fine_tuning.py search/test_gradient_search.py \
	search/test_methods.py search/test_module_search.py)
PORTABLE := tests/models/test_training.py tests/modules/fast \
	$(filter-out $(IN_PART), $(wildcard tests/modules/*.py tests/patching/*.py tests/search/*.py)) \
	tests/modules/test_sensitivity_scripts.py::test_one_layer_as_all_layers \
	tests/patching/test_own_weak_model.py::test_a_class_is_added_and_the_patched_model_runs_without_this_project \
	$(addprefix tests/patching/test_patch_scripts.py::test_, one_class_all_calibrations \
		saved_model_predicts_what_the_report_counts interrupted_training_goes_on_to_the_same_weights) \
	$(addprefix tests/search/test_fine_tuning.py::test_, modules_answer_better_and_stay_as_small \
		modules_of_log_odds_stay_modules_of_log_odds) \
	$(addprefix tests/search/test_gradient_search.py::test_, groups_of_any_size_find_the_same \
		it_fills_the_same_contract_as_the_genetic_search) \
	tests/search/test_methods.py::test_a_method_is_one_class_and_one_line_of_the_table

.PHONY: help setup demo test test-all test-portable check lint format benchmark bench results clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /: /'

$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

setup: $(VENV)/ready  ## make the virtual environment .venv and install the toolkit in it, editable

demo: setup  ## the whole pipeline on scikit-learn's digits: a few minutes, no GPU
	$(BIN)/python scripts/run_demo.py

test: setup  ## all tests except the long ones: four to six minutes on two cores
	$(BIN)/python -m pytest -m "not long"

test-all: setup  ## all tests, before a release: a quarter of an hour, on slow machines twice as long
	$(BIN)/python -m pytest

test-portable: setup  ## tests that train, search or compile, as with AVX2 and without vector instructions
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 CXX= $(BIN)/python -m pytest -m "not long" $(PORTABLE) \
		--threads 2 --first-line 0 --seed 1 --hypothesis-profile seeded --hypothesis-seed 1
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest -m "not long" $(PORTABLE) \
		--threads 1 --first-line inf

check: lint  ## style, formatting, types and the quick tests: one minute, and a second one when mypy runs for the first time
	$(BIN)/python -m pytest -m "not slow and not long"

lint: setup  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: setup  ## fix formatting
	$(BIN)/ruff format .

benchmark: setup  ## fast paths against naive ones, on digits; see benchmarks/
	$(BIN)/python benchmarks/compare.py --model simcnn_x0_25 --dataset digits

bench: setup  ## search methods at equal size, sub-tasks, and patches with their baselines, on CIFAR-10: hours; resumes
	$(BIN)/python experiments/results/results.py --table modules methods sub_tasks patching patch_baselines

results: setup  ## the experiments on CIFAR-10, from the images to the tables: hours; resumes where it stopped
	$(BIN)/python experiments/results/results.py

clean:  ## remove the virtual environment and caches; data/ stays
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +
