# make demo · make test · make check · make bench · make soak: each sets up .venv from nothing if need be, and can be repeated.

PYTHON ?= python3
BIN := .venv/bin
PLUGINS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard plugins/*/pyproject.toml)))
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2

.PHONY: setup demo test check bench soak clean

setup: .venv/.ready

# Torch comes first and alone: every other package is content with the version that is there.
.venv/.ready: constraints.txt pyproject.toml $(addsuffix /pyproject.toml,$(PLUGINS))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) editables hatchling
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	$(INSTALL) --no-build-isolation $(addprefix --editable ,$(PLUGINS))
# Apart, since its wheel holds a package called tests.
	$(INSTALL) --no-deps --target .venv/peers --upgrade torch-fidelity
	touch $@

demo: setup
	@mkdir -p demo
	@echo "samples, reconstructions and interpolations of vae-mnist, from the weights in its plugin:"
	@$(BIN)/zoo sample vae-mnist --number 64 --output demo/samples.png
	@$(BIN)/zoo reconstruct vae-mnist --data digits --margin 4 --output demo/reconstructions.png
	@$(BIN)/zoo interpolate vae-mnist --data digits --margin 4 --output demo/interpolation.png
	@echo "and two sentences as dalle-shapes draws them, and three names as dalle-emoji does:"
	@$(BIN)/zoo generate dalle-shapes "a small red circle left of a big blue square" "an orange star" --output demo/shapes.png
	@$(BIN)/zoo generate dalle-emoji "red heart" "pizza" "rocket" --output demo/emoji.png

# A file at a time, so that what its tests share is made once; in order, so that no long one comes last.
test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: setup
	$(BIN)/python -m pytest -m soak tests/test_soak.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.bench: .venv/.ready
	$(INSTALL) diffusers pythae transformers
	$(INSTALL) --no-deps dalle-pytorch axial-positional-embedding einops rotary-embedding-torch
	touch $@

bench: .venv/.bench
	for script in $(filter-out benchmarks/rounds.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv demo
