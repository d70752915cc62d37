# make demo   a gateway and a collector under real HTTP load; ARGS="--seconds 5 --delay 10
#             --clients 8 --entries 20" changes what it does
# make test   the test suite, a process for each core; ARGS="-k close" goes to pytest
# make chaos  rounds of drawn chaos, each judged to the entry; ARGS="--seconds 3600
#             --seed 7" makes it longer, or repeats it
# make lint   generated tables, formatting, style, types, stubs
# make soak   200 million entries through each overflow policy: nothing grows
# make overload  a sink that hangs for a minute, and comes back
# make sanitize  sanitizers, debug build, ThreadSanitizer (.ci/sanitizers says which);
#             SANITIZER="address thread" runs those only
# make coverage  which lines and branches of src/ the tests run, Cython's too, against the
#             limits in .ci/coverage, which makes an environment of its own; with htmlcov/
# make bench  the benchmark suite, in five minutes, with its report in .benchmarks/;
#             ARGS=--benchmark-quick takes about one
# make figures  the same, and from it the tables of the README and of docs/
# make layouts  what each layout costs the whole way, beside its peers
# make docs   the documentation site, in site/
# make sdist  the source distribution, in dist/
# make clean  back to what is in version control
#
# All of it happens in .venv, made on first use with $(PYTHON).

PYTHON ?= python3
ARGS ?=

python := .venv/bin/python
pip := $(python) -m pip --disable-pip-version-check install --quiet
sources := $(wildcard src/ringdispatch/*.pyx src/ringdispatch/*.pxd)
# A build with other switches (setup.py) is another build.
switches := $(RINGDISPATCH_DEBUG)-$(RINGDISPATCH_COVERAGE)-$(RINGDISPATCH_SANITIZE)
built := .venv/.built-$(switches)

.NOTPARALLEL:
.PHONY: demo test chaos soak overload bench figures layouts sanitize coverage lint docs
.PHONY: sdist clean

demo: $(built) .venv/.group-demo
	$(python) examples/demo.py $(ARGS)

groups := test demo servers bench docs
test: $(built) $(groups:%=.venv/.group-%)
	$(python) -m pytest --numprocesses auto $(ARGS)

chaos: $(built) .venv/.group-test
	$(python) stress/chaos.py $(ARGS)

soak overload: $(built)
	$(python) stress/$@.py $(ARGS)

bench: $(built) .venv/.group-bench
	$(python) -m pytest --benchmark $(ARGS)

figures: override ARGS :=
figures: bench
	cp "$$(ls -t .benchmarks/suite-*.json | head -n 1)" benchmarks/results/suite.json
	$(python) benchmarks/tables.py

layouts: $(built) .venv/.group-bench
	$(python) benchmarks/whole_way.py $(ARGS)

lint: $(built) .venv/.group-lint
	$(python) benchmarks/tables.py --check
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy
	$(python) -m mypy.stubtest ringdispatch --mypy-config-file pyproject.toml \
		--allowlist tests/typing/stubtest-allowlist.txt
	$(python) -m mypy tests/typing/api.py
	$(python) -m pyright tests/typing/api.py

sanitize:
	PYTHON=$(PYTHON) .ci/sanitizers $(SANITIZER)

# Of one version, whatever $(PYTHON) is; PYTHON=... on the command line reaches it.
coverage:
	.ci/coverage

# Strict: a link or a name that leads nowhere is an error, as is a page that would have
# its reader's browser fetch something from elsewhere.
docs: $(built) .venv/.group-docs .venv/.group-test
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict
	@! grep -rnoE '<(script|link|img|iframe|source)[^>]+="?(https?:)?//[^">]+' \
		site --include='*.html'

sdist: .venv/.group-build
	$(python) -m build --sdist

clean:
	rm -rf .venv build dist site *.egg-info src/*.egg-info htmlcov .coverage .benchmarks
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f src/ringdispatch/*.so src/ringdispatch/*.pyd src/ringdispatch/*.c
	find benchmarks examples src stress tests -name __pycache__ -prune -exec rm -rf {} +

# Older pips know no dependency groups.
.venv/.pip:
	$(PYTHON) -m venv .venv
	$(pip) --upgrade 'pip>=25.1'
	@touch $@

.venv/.group-%: pyproject.toml .venv/.pip
	$(pip) --group $*
	@touch $@

.venv/.group-bench: pyproject.toml .venv/.pip
	$(pip) --group bench || $(pip) --group bench-pure
	@touch $@

$(built): $(sources) setup.py pyproject.toml .venv/.pip
	$(pip) --editable .
	@rm -f .venv/.built-*
	@touch $@
