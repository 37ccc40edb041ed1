"""Memory of whole processes: what a picture takes, and that nothing stays."""

import subprocess
import sys

import pytest

from styleforge import memory

START = """
import sys, numpy as np, torch
from styleforge import ResnetGenerator, StylePipeline, memory
torch.set_num_threads(1)
torch.manual_seed(0)
pipe = StylePipeline(ResnetGenerator(width=8, blocks=1))
def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
pipe(picture(64, 64))
"""


def child(code):
    """What a new process prints last."""
    run = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=120, check=True)
    return [float(word) for word in run.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_that_of_the_process_and_not_of_its_parent():
    block = bytearray(2**30)  # touched, and more than the child needs
    block[:: 2**12] = b"\1" * (2**30 // 2**12)
    (peak,) = child("print(memory.peak())")
    assert 2**26 < peak < 2**30 <= memory.peak()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_is_given_back_is_no_longer_of_the_process():
    before, without, again = child("""
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
whole = torch.ones(2**28, dtype=torch.uint8)
part = whole[1000:-1000]
before = resident()
memory.give_back(part)
assert whole[:1000].all() and whole[-1000:].all()  # what is beside stays
memory.give_back(part[:10])  # less than a page
without = resident()
part.fill_(2)
assert (part == 2).all()
print(before, without, resident())
""")
    assert before - without > 0.9 * 2**28 and again - without > 0.9 * 2**28


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_12_megapixels_take_little_more_than_the_budget_and_the_picture():
    """In tiles, with what waits in files; the whole at once would take three gigabytes."""
    before, after, rounds = child("""
image, tiles = picture(3000, 4000), []
before = memory.peak()
made = pipe(image, max_memory=0.1, progress=lambda *done: tiles.append(done))
print(before, memory.peak(), len(tiles))
""")
    pictures = 3000 * 4000 * (3 + 3 + 4)  # read, made, and as Pillow keeps it
    assert rounds > 100
    assert after - before <= 0.25 * memory.GIB + pictures  # freed memory is kept for the next tile


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_500_calls_leave_nothing():
    before, after = child("""
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
image = picture(64, 64)
for n in range(600):
    pipe(image)
    if n == 99:
        before = resident()
print(before, resident())
""")
    assert after - before < 500 * 64 * 64 * 3 / 2, "half a picture each"
