#!/usr/bin/env bash
# Set up and run every check: bash scripts/test.sh [PYTEST ARGUMENTS]
# Tests that need ../shared (pictures, reference numbers) say so and are skipped without it.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# Two at a time, each with one thread; a file stays together, because its tests share fixtures.
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
