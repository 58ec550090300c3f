# Everything runs in .venv, which 'make setup' creates and keeps up to date. PYTHON=... chooses the interpreter for it.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check clean

BIN := .venv/bin

# A sourced ROS workspace would bring its own rclpy and libraries in front of those of .venv.
unexport PYTHONPATH
ifneq ($(AMENT_PREFIX_PATH),)
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH
endif

help:
	@echo "make setup   create or update .venv (the other targets do it by themselves)"
	@echo "make demo    track the cars of the bundled video through the ROS 2 node; results in out/demo"
	@echo "make test    run the tests in two processes (ARGS='-k name' for some of them, ARGS='-n 0' for one process)"
	@echo "make lint    ruff, mypy, and which module may import which (docs/architecture.md)"
	@echo "make check   lint and test"
	@echo "make clean   remove .venv and everything that was built; out/ stays"

setup:
	@tools/setup.sh

demo: setup
	@$(BIN)/stemseg demo

test: setup
	@$(BIN)/python -m pytest -n 2 $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf .venv build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
