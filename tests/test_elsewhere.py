"""What is right on the CPU is right on other devices: see elsewhere_checks.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("elsewhere_checks.py")


def test_every_network_engine_and_method_on_another_device():
    """In a process of its own, because torch cannot forget a device."""
    pytest.importorskip("torch.utils.backend_registration", reason="this torch knows no devices written in Python")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", str(CHECKS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    # The counts, and not words: without ../shared the summary says what would be skipped for want of it.
    assert re.search(r"\d+ passed", result.stdout) and not re.search(r"\d+ skipped", result.stdout), result.stdout
