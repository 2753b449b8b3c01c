# mematlas: `make demo` shows it, `make test` proves it. Both set up what they need in .venv.

.PHONY: demo test fresh guests guests-all guest-kernel fuzz lint format bench docs examples picture clean

demo:
	@scripts/bootstrap
	@.venv/bin/mematlas demo

# Without root, what is missing is named and its tests are skipped; where all can be had (CI), that is a failure.
# What fails is tried again, a few times in all: other programs use the same memory. What passed then is listed, with why.
AGAIN = --reruns 2 --reruns-delay 2 --max-suite-reruns 8 --rerun-show-tracebacks --rerun-exclude-path tests/unit
test: lint
	@scripts/packages test || [ -z "$$CI" ]
	.venv/bin/python -m pytest -n 3 $(AGAIN)

# The same from nothing: a clone of what is committed, in a minimal Debian, as root and as an ordinary user.
fresh:
	@scripts/bootstrap dev
	.venv/bin/python scripts/fresh.py

# Other kernels, in virtual machines: tests/guest/README.md. The second takes hours.
guests:
	@scripts/bootstrap dev
	@scripts/packages guests || [ -z "$$CI" ]
	.venv/bin/python -m pytest -n 2 tests/guest/test_guest.py

guests-all:
	@scripts/bootstrap dev
	.venv/bin/python tests/guest/matrix.py

# A kernel with everything switched on: 10 to 20 minutes, once.
guest-kernel:
	@scripts/bootstrap dev
	.venv/bin/python tests/guest/own.py

# Made-up inputs by the million, for hours; make test runs some thousands of them. FUZZ="parsers --seconds 60" does less.
fuzz:
	@scripts/bootstrap dev
	.venv/bin/python tests/fuzz/campaign.py $(FUZZ)

lint:
	@scripts/bootstrap dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format:
	@scripts/bootstrap dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench:
	@scripts/bootstrap dev
	.venv/bin/python bench/run.py

docs:
	@scripts/bootstrap dev
	.venv/bin/python scripts/make_docs.py
	.venv/bin/python scripts/kernel_table.py

# The outputs in the documents, by running what stands in them. As root; EXAMPLES=docs/concepts.md does one page.
examples:
	@scripts/bootstrap dev
	.venv/bin/python scripts/examples.py $(EXAMPLES)

picture:
	@scripts/bootstrap dev
	.venv/bin/python scripts/picture.py

clean:
	rm -rf .venv bench/bin .mypy_cache .ruff_cache .pytest_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
