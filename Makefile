# make env | demo | test | lint: see README.md. Everything lives in .venv and results/; nothing needs root.
ACCEL ?= cpu
PYTHON ?= python3
STUDY ?= studies/quickstart.yaml
BIN := .venv/bin
SHELL := /bin/bash
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: env extras demo catalogue test zoo faults soak lint docs conformance bench bench-gpu gpu-check gpu-check-wheels picture clean

env: .venv/.installed-$(ACCEL)

# A lock is installed as a whole; the marker is newer than the lock it was made from.
.venv/.installed-$(ACCEL): envs/requirements-$(ACCEL).txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -r envs/requirements-$(ACCEL).txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@# pip compiles on one core. Some packages carry templates that are no Python; those may fail.
	$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true
	rm -f .venv/.installed-*
	touch $@

# The built-in workloads' own packages, on top of any accelerator's lock. --no-deps: the lock names all of them.
extras: env
	$(BIN)/pip install --quiet --no-compile --no-deps -r envs/requirements-extras.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .

demo: env
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	snakemake --cores all --quiet rules --config study=$(STUDY) || exit 1; \
	results=results/$$(basename $(STUDY) .yaml); \
	echo; cat $$results/answer.txt; echo; echo "report: $(CURDIR)/$$results/report.html"

# Every layout, schedule and recipe that a CPU runs, each against the serial run: 63 small runs, one launch for all of a
# number of ranks. `snakemake --cores all --config study=studies/catalogue.yaml` makes a job of each, and a report.
catalogue: env
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --cores 1 --quiet rules --until plan \
		--config study=studies/catalogue.yaml
	$(BIN)/hpc-accel script results/catalogue/plan.json
	$(BIN)/python -m tests.train.grouped results/catalogue
	HPC_ACCEL_CATALOGUE=results/catalogue $(BIN)/python -m pytest -m catalogue tests

# Two at a time: most tests wait for processes to start. Those of the cluster, which is one, take turns.
test: env
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=10

# Every model of tests/zoo in every layout, each against the serial run. `make test` trains some of them.
zoo: extras
	$(BIN)/python -m pytest -m zoo tests/zoo

lint: env
	$(BIN)/pip install --quiet -r envs/requirements-dev.txt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hpc_accel
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --lint

# Every fault of docs/reliability.md in real runs, and spoilt files for a minute each: about a quarter of an hour.
faults: env
	HPC_ACCEL_FUZZ_S=60 $(BIN)/python -m pytest tests/faults tests/test_fuzz.py --durations=10

# Runs that are killed, frozen and warned at random, 54 times over six layouts, end with the weights of undisturbed ones:
# about ten minutes; the counts go to benchmarks/results/.
soak: env
	$(BIN)/python -m tests.soak.soak

# The documentation as a site without a network, in site/; a dead link is an error.
docs: .venv/docs/.installed
	.venv/docs/bin/mkdocs build --quiet

.venv/docs/.installed: envs/requirements-docs.txt
	$(PYTHON) -m venv .venv/docs
	.venv/docs/bin/pip install --quiet --no-compile -r $<
	touch $@

# PyTorch's own distributed suite on the mpi4py backend, 2, 4 and 8 ranks: about half an hour on two cores.
conformance: env
	$(BIN)/python -m tests.mpi.conformance --ranks 2 4 8

# The backend beside gloo, in one run; ratios in benchmarks/results/.
bench: env
	$(BIN)/hpc-accel bench backend --json benchmarks/results/backend-cpu-$$(date +%F).json

# The backend on device tensors: figures and a trace of some steps in benchmarks/results/.
bench-gpu: env
	$(BIN)/hpc-accel bench gpu --json benchmarks/results/backend-gpu-$$(date +%F).json \
		--trace benchmarks/results/backend-gpu-$$(date +%F).trace.json

# Everything that only a GPU can show, on this machine's card: two passes of five minutes, see docs/gpu.md. AGAIN=FILE runs
# what did not pass before; PASS=A or B runs one. PRETEND=1 tries the script itself on a CPU.
PASS ?= AB
GPU_PYTHON ?= $(BIN)/python
gpu-check:
	HPC_ACCEL_PRETEND_GPU=$(PRETEND) $(GPU_PYTHON) -m benchmarks.gpu.check --pass $(PASS) $(if $(AGAIN),--again $(AGAIN))

# What a machine with torch for GPUs, Python 3.12 and no network lacks, to be carried there; 48 MiB.
gpu-check-wheels:
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
		$(foreach n,28 27 24 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 \
		--dest .whl --requirement benchmarks/gpu/wheels.txt

# The picture of the README: the first screen of the demo's report.
PICTURED ?= $(CURDIR)/results/quickstart/report.html
picture:
	chromium --headless=new --no-sandbox --hide-scrollbars --window-size=1440,900 --screenshot=docs/report.png \
		"file://$(PICTURED)"

clean:
	rm -rf results logs .snakemake

include slurm/cluster.mk
