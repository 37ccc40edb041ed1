"""One Hub for all tests, on 127.0.0.1, and a home of its own for its client: no test can reach the real one."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

# huggingface_hub reads all of these once, when it is imported.
if "huggingface_hub" in sys.modules:
    raise RuntimeError("huggingface_hub was imported before tests/conftest.py: it may talk to the real Hub.")
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "HUGGINGFACE"))]:
    del os.environ[name]
HOME = Path(tempfile.mkdtemp(prefix="styleforge-tests-"))
HUB = HubServer()
os.environ |= {
    "HF_HOME": str(HOME),
    "HF_ENDPOINT": HUB.url,
    "HF_TOKEN": "hf_of_the_tests",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",  # the stand-in speaks LFS
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "0",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

import torch  # noqa: E402

torch.set_num_threads(1)  # the same sums everywhere, and room for others on a small machine

SHARED = Path(__file__).parents[2] / "shared"
MISSING = f"no {SHARED}: pictures, weights and reference numbers are handed over beside the repository"


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """The Hub, for as long as the tests run; what tests leave there stays, unless they call `hub.reset()`."""
    yield HUB
    HUB.stop()


@pytest.fixture
def cores() -> Iterator[Callable[[int], None]]:
    """Tells torch how many cores there are, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared/` beside the repository; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(MISSING)
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not SHARED.is_dir():
        terminalreporter.write_line(f"Tests that need it were skipped: {MISSING}", yellow=True)
