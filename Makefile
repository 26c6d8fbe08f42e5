# make demo    set up, then run the main job: a study goes in, a segmentation and a report come back
# make test    set up, then check the code and run the tests
# make test-all    the slow tests too
# make audit   set up, then ask whether vulnerabilities are known of the pinned packages
# make sbom    set up, then write what a deployment is made of (CycloneDX) to build/sbom
# make docs    set up, then write the documentation's site to build/site
# make release    set up, then build the sdist and the wheel into dist: docs/howto-release.md

.PHONY: demo test test-slow test-all audit sbom docs release setup-demo setup-test setup-slow setup-docs setup-release lint
.DEFAULT_GOAL := demo

demo: setup-demo
	@.venv/bin/coread demo

test: setup-test lint
	@echo "[test 2/2] tests"
	@.venv/bin/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: setup-slow
	@.venv/bin/python -m pytest -m slow

test-all: test test-slow

audit: setup-test
	@.venv/bin/python scripts/audit.py

sbom: setup-test
	@.venv/bin/python scripts/sbom.py build/sbom

docs: setup-docs
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict
	@echo "[docs] build/site/index.html"

release: setup-release
	@.venv/bin/python scripts/release.py

setup-demo:
	@scripts/setup demo

setup-test:
	@scripts/setup test

setup-slow:
	@scripts/setup slow

setup-docs:
	@scripts/setup docs

setup-release:
	@scripts/setup release

lint:
	@echo "[test 1/2] style, types, direction of imports"
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports >.venv/imports.txt || { cat .venv/imports.txt; exit 1; }
