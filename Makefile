# Everything works in .venv, which scripts/setup makes and keeps up to date. `make` alone lists the commands.
PYTHON ?= python3
BIN := .venv/bin
SETUP := PYTHON=$(PYTHON) scripts/setup
# workers of the test run, and more arguments for pytest: make test ARGS="-k registry"
WORKERS ?= 2
ARGS ?=

# What writes a result, then the README's tables of these results, also where something failed.
kept = $(BIN)/python -m $(1); code=$$?; $(BIN)/python -m scripts.tables && exit $$code

.PHONY: help setup demo test test-matrix test-slurm-slow test-openmpi5 test-kubernetes tables check format bench soak clean

help:
	@echo "make demo            set up, then submit, train, register, export and use a classifier"
	@echo "make test            set up, then all checks and tests   (ARGS='-k name' runs some)"
	@echo "make test-matrix     every launcher with every spread; writes its result   (ARGS='ssh mpi' runs some)"
	@echo "make test-slurm-slow what takes Slurm minutes: starting again, accounts; writes its result"
	@echo "make test-openmpi5   Open MPI 5 on several nodes; writes its result"
	@echo "make test-kubernetes jobs on a real Kubernetes, built first (ten minutes, once); writes its result"
	@echo "make tables          write the README's tables of these results"
	@echo "make check           format, lint, types, import contracts"
	@echo "make format          rewrite the files as 'make check' wants them"
	@echo "make bench NAME=...  run one benchmark; without NAME, list them"
	@echo "make soak            the long fault campaigns; writes their table"
	@echo "make setup           only make or renew .venv"
	@echo "make clean           remove what checks, tests and builds left (.venv stays)"

setup:
	@$(SETUP)

demo:
	@$(SETUP) mpi,recipes
	@$(BIN)/python -m trainkit_recipes.birds.demo

test: check
	@scripts/build-horovod || echo "test: the tests of Horovod are skipped"
	@scripts/engines || echo "test: the tests on several nodes that need what is missing are skipped"
	@scripts/ray-venv >/dev/null || echo "test: the tests of Ray are skipped"
	@scripts/containers >/dev/null || echo "test: the tests in containers that need what is missing are skipped"
	@echo "test: pytest, $(WORKERS) workers"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-matrix: setup
	@scripts/build-horovod && scripts/engines
	@$(call kept,tests.engines.matrix $(ARGS))

test-slurm-slow: setup
	@scripts/engines accounts
	@$(call kept,tests.engines.ondemand slurm)

test-openmpi5: setup
	@scripts/build-horovod && scripts/engines
	@$(call kept,tests.engines.ondemand openmpi5)

test-kubernetes: setup
	@scripts/engines
	@$(call kept,tests.engines.on_demand_kubernetes)

tables: setup
	@$(BIN)/python -m scripts.tables

check: setup
	@scripts/check

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench:
	@test -n "$(NAME)" || { echo "make bench NAME=... with one of:"; ls benchmarks/*.py | sed 's,benchmarks/\(.*\).py,  \1,'; exit 2; }
	@test -f "benchmarks/$(NAME).py" || { echo "bench: no benchmark is called $(NAME); 'make bench' lists them"; exit 2; }
	@$(SETUP) mpi,recipes,fastai,bench
	@$(BIN)/python "benchmarks/$(NAME).py" $(ARGS)

soak:
	@$(SETUP)
	@scripts/engines && scripts/ray-venv >/dev/null
	@$(BIN)/python -m benchmarks.soak_nodes; nodes=$$?; $(BIN)/python -m benchmarks.soak $(ARGS); one=$$?; \
	    $(BIN)/python -m scripts.tables && exit $$((nodes | one))

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
