# Two commands: `make run` and `make test`. Both set up .venv first.
PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check --quiet

.PHONY: run test venv clean

run: venv
	.venv/bin/coralx run

test: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest

venv: .venv/run

.venv/run: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt -e '.[models]'
	touch $@

.venv/test: .venv/run
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv runs
