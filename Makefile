# make demo   a gateway and a collector under real HTTP load; ARGS="--seconds 5 --delay 10
#             --clients 8 --entries 20" changes what it does, and ARGS="--spool DIRECTORY
#             --kill" kills the gateway in mid-traffic; "--via nats" and "--via redis"
#             have a relay take the entries from a server of that
# make test   the test suite, PROCESSES of it at once; ARGS="-k close" goes to pytest, and
#             WHOLE=1 does more of what is repeated, drawn or combined, for twice as long
# make test-interpreter, test-compiled, test-threads, test-rings   parts of it, see below
# make lint   generated tables, formatting, style, types, stubs
# make docs   the documentation site, in site/
# make workflows  the schemas of what is in .github, and zizmor
#
# make chaos  rounds of drawn chaos, each judged to the entry; ARGS="--seconds 3600
#             --seed 7" makes it longer, or repeats it
# make races  all that a ring and a dispatcher can do at once, from several threads
# make soak   200 million entries through each overflow policy: nothing grows
# make overload  a sink that hangs for a minute, and comes back
# make kill   processes that spool are killed at drawn moments: no entry is lost;
#             ARGS="--kills 1000 --seed 7" is more, or repeats it
# make fanin  gateways, three NATS servers and relays are killed at drawn moments: every
#             entry arrives; ARGS="--nodes 1 --seconds 5 --seed 7" is less of it
# make fanin-costs  what a message and an entry cost a gateway, the servers and a relay;
#             ARGS="--engine redis" is the other one
# make mutations  builds that lose entries at a kill, each found by make kill
# make servers   real servers that end in mid-traffic, and the signals that end them all;
#             the end of a loop in its full five seconds; the example for litellm
# make ends      how many entries each server delivers, of 20 ends by each signal, into the
#             tables of docs/servers.md; ARGS="--ends 2 --only daphne" is less of it
# make windows   a million windows, each opened in the moment of a take
# make hammer    a minute of re-entry from each source
# make cases  situations that were too much once, each a program; ARGS=many_flush is one
# make interruptions  an exception at every line that the package runs
# make peers  OpenTelemetry's, Sentry's and CPython's own tests with a dispatcher in the place
#             of what they test, from released sources; ARGS="sentry" runs one
#
# make prices what enqueue, a row, a batch, a window, a middleware, a spool and a line of
#             logging cost, against limits; make enqueue-price is one of them
# make import-price  what the import costs, against its limit
# make otlp-price  what a log record costs OtlpLogSink, against OpenTelemetry's SDK
# make spool-disk  how long an enqueue takes with a spool on a disk, also beside a program
#             that writes there; ARGS="--directory /mnt" is another disk
# make linear what grows with tasks, calls and dispatchers: it doubles when they do
# make replay-check  what the tuner predicts, against the real dispatcher, in half an hour;
#             ARGS=--quick takes three minutes
# make bench  the benchmark suite, in five minutes, with its report in .benchmarks/;
#             ARGS=--benchmark-quick takes about one
# make figures  the same, and from it the tables of the README and of docs/
# make still  the README's picture of the demo whose gateway is killed
# make layouts  what each layout costs end to end, beside its peers
#
# make sdist  the source distribution, in dist/
# make wheels that, and from it a wheel for each interpreter in RINGDISPATCH_PYTHONS, or
#             for PYTHON, each looked at as a release would
# make reproducible  two builds of the last commit, and the bytes compared
# make installed  TARGETS="test prices" with the wheel from dist/ under PYTHON
# make sanitize  sanitizers, debug build, ThreadSanitizer (.ci/sanitizers says which);
#             SANITIZER="address thread" runs those only, WHOLE=1 the whole suite
# make coverage  which lines and branches of src/ the tests run, Cython's too, against the
#             limits in .ci/coverage, which makes an environment of its own; with htmlcov/
# make nightly   what is too long for .ci/run, in hours; PARTS="chaos" is one part
#
# make clean  back to what is in version control
#
# All of it happens in .venv, made on first use with PYTHON. With UNDER=/path/to/python it
# happens under that one, which has what it takes, and nothing is made or installed.

PYTHON ?= python3
# The tests wait more than they compute.
PROCESSES ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
export PROCESSES
ARGS ?=
TARGETS ?= test-interpreter prices

# Where the programs are that run for long.
stress := stress

# Parts of the suite: each name stands for tests/test_NAME.py.
#
# What depends on the version of the interpreter: compiled code, what CPython does at the
# end of a loop, of a thread and of a process, at a fork, and when it collects.
interpreter_tests := accounting bad_input batches bytes bytes_dispatch bytes_refused \
	context crc32c elsewhere end end_tasks exit fork gevent hammer home interleavings life \
	names nested ordered packaging record_buffers records records_refused reentry ring \
	ring_threads sink_ends spool_files spool_recovery spool_ring stopped threads unclosed \
	waiting worker_threads wrong_input
# What goes every way through compiled code, the failing ones too.
compiled_tests := accounting bad_input batches bytes bytes_dispatch bytes_refused context \
	crc32c hammer leaks leaks_layouts ordered record_buffers records records_refused \
	reentry ring ring_model ring_threads spool_damage spool_dispatch spool_files \
	spool_letters spool_reading spool_recovery spool_ring threads worker_threads
# What races in threads of its own; and what may be run in several at once.
threads_tests := threads ring_threads ordered
rings_tests := $(threads_tests) ring ring_model
parts := interpreter compiled threads rings

# benchmarks/NAME_price.py --check: limits that hold under every interpreter.
counted_prices := middleware window logging enqueue record
# These measure times, too.
timed_prices := spool batch
prices := $(counted_prices) $(timed_prices)

sources := $(wildcard src/ringdispatch/*.pyx src/ringdispatch/*.pxd)
# A build with other switches (setup.py) is another build.
switches := $(RINGDISPATCH_DEBUG)-$(RINGDISPATCH_COVERAGE)-$(RINGDISPATCH_SANITIZE)
built := .venv/.built-$(switches)
pip := .venv/bin/python -m pip --disable-pip-version-check install --quiet

ifdef UNDER
python := $(UNDER)
needs :=
else
python := .venv/bin/python
needs = $(built) $(1:%=.venv/.group-%)
endif
pytest := $(if $(WHOLE),RINGDISPATCH_TEST_WHOLE=1 )$(python) -m pytest \
	--numprocesses $(PROCESSES)
patient := -o timeout=3600 -o faulthandler_timeout=3700

.NOTPARALLEL:
.PHONY: demo test $(parts:%=test-%) lint docs workflows chaos races soak overload
.PHONY: kill fanin fanin-costs mutations servers ends windows hammer interruptions peers cases
.PHONY: prices $(prices:%=%-price) import-price otlp-price spool-disk linear
.PHONY: replay-check bench figures still layouts sdist wheels reproducible installed sanitize coverage
.PHONY: nightly clean

demo: $(call needs,demo engines)
	$(python) examples/demo.py $(ARGS)

test: $(call needs,test sinks engines demo servers web peers bench docs)
	$(pytest) $(ARGS)

$(parts:%=test-%): test-%: $(call needs,test)
	$(pytest) $($*_tests:%=tests/test_%.py) $(ARGS)

chaos races interruptions: $(call needs,test)
	$(python) $(stress)/$@.py $(ARGS)

soak overload kill: $(call needs)
	$(python) $(stress)/$@.py $(ARGS)

fanin: $(call needs,test engines)
	$(python) $(stress)/fanin.py $(ARGS)

fanin-costs: $(call needs,test engines)
	$(python) $(stress)/fanin_costs.py $(ARGS)

mutations: $(call needs)
	$(python) $(stress)/kill_mutations.py $(ARGS)

cases: $(call needs,test cases)
	$(python) $(stress)/run_cases.py $(ARGS)

servers: $(call needs,test servers web litellm)
	RINGDISPATCH_TEST_EVERY_SERVER=1 $(pytest) -m nightly tests/test_servers.py \
		tests/test_servers_traffic.py tests/test_servers_frameworks.py \
		tests/test_end_in_full.py tests/test_docs_workers.py $(ARGS)

ends: $(call needs,test servers web)
	$(python) benchmarks/server_ends.py $(ARGS)
	$(python) benchmarks/tables.py

windows: $(call needs,test)
	RINGDISPATCH_TEST_WINDOWS=1000000 $(pytest) $(patient) tests/test_wakeups.py $(ARGS)

hammer: $(call needs,test)
	RINGDISPATCH_TEST_HAMMER_SECONDS=60 $(pytest) $(patient) tests/test_hammer.py $(ARGS)

peers: $(call needs,peers)
	$(python) tests/peers/peer_suites.py $(ARGS)

# Instructions are counted two at a time: a busy machine does not change them.
prices: $(call needs,test)
	@printf '%s\n' $(counted_prices) | xargs -P 2 -I NAME sh -c \
		'output=$$($(python) benchmarks/NAME_price.py --check 2>&1); status=$$?; \
		echo "NAME: $$output"; exit $$status'
	for name in $(timed_prices); do \
		$(python) benchmarks/$${name}_price.py --check || exit 1; done

$(prices:%=%-price) import-price: %-price: $(call needs,test)
	$(python) benchmarks/$*_price.py --check $(ARGS)

otlp-price: $(call needs,test sinks)
	$(python) benchmarks/otlp_price.py --check $(ARGS)

spool-disk: $(call needs)
	$(python) benchmarks/spool_disk.py $(ARGS)

linear: $(call needs)
	$(python) benchmarks/linear.py --check $(ARGS)

replay-check: $(call needs)
	$(python) benchmarks/replay_check.py --check $(ARGS)

bench: $(call needs,bench)
	$(python) -m pytest --benchmark $(ARGS)

figures: override ARGS :=
figures: bench
	cp "$$(ls -t .benchmarks/suite-*.json | head -n 1)" benchmarks/results/suite.json
	$(python) -m pytest --benchmark --benchmark-full \
		-k "test_cell and (http or tail or encoded or database or growing)"
	cp "$$(ls -t .benchmarks/suite-*.json | head -n 1)" benchmarks/results/sinks.json
	$(python) benchmarks/tables.py

still: $(call needs,demo)
	$(python) benchmarks/still.py

layouts: $(call needs,bench)
	$(python) benchmarks/end_to_end.py $(ARGS)

lint: $(call needs,lint)
	$(python) benchmarks/tables.py --check
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy
	$(python) -m mypy.stubtest ringdispatch --mypy-config-file pyproject.toml \
		--allowlist tests/typing/stubtest-allowlist.txt
	$(python) -m mypy tests/typing/api.py
	$(python) -m pyright tests/typing/api.py

# Strict: a link or a name that leads nowhere is an error, as is a page that would have
# its reader's browser fetch something from elsewhere.
docs: $(call needs,docs test)
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict
	@! grep -rnoE '<(script|link|img|iframe|source)[^>]+="?(https?:)?//[^">]+' \
		site --include='*.html'

workflows: .venv/.group-workflows
	.ci/workflows

sdist: .venv/.group-build
	$(python) -m build --sdist

wheels:
	PYTHON="$(PYTHON)" .ci/wheels

reproducible:
	PYTHON="$(PYTHON)" .ci/reproducible

installed:
	.ci/installed "$(PYTHON)" $(TARGETS)

sanitize:
	PYTHON="$(PYTHON)" WHOLE="$(WHOLE)" .ci/sanitizers $(SANITIZER)

coverage:
	.ci/coverage

nightly:
	PYTHON="$(PYTHON)" .ci/run nightly $(PARTS)

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

# Some are compiled here; a program that lacks a package is not run.
.venv/.group-cases: pyproject.toml .venv/.pip
	$(pip) --group cases || $(pip) --group cases-pure
	@touch $@

$(built): $(sources) setup.py pyproject.toml .venv/.pip
	$(pip) --editable .
	@rm -f .venv/.built-*
	@touch $@
