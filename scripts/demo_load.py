"""Many users at once on a page, started here and on this machine only: an answer for everybody, in bounded memory?

    python scripts/demo_load.py --users 50 --rounds 20

Each user uploads a small picture and has it styled, again and again, in one of more styles than fit into the budget.
Of all requests, 1 in 20 is hostile (an address, a file that is no picture, a setting out of range) and 1 in 10 leaves
before it is answered. Exits with 1 when somebody hangs, gets an error without a sentence, or memory grows.
"""

import argparse
import asyncio
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
SERVER = """
import sys, torch
torch.set_num_threads(1)
from styleforge import demo
from styleforge.models import ResnetGenerator
folder, queue, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names = [f"{folder}/styles/style{number}" for number in range(count)]
for name in names:
    ResnetGenerator(width=16, blocks=3).save_pretrained(name)
size = 4 * sum(p.numel() for p in ResnetGenerator(width=16, blocks=3).parameters())
policy = demo.Policy(queue=queue, style_bytes=size * count // 2)
page = demo.launch("127.0.0.1", styles=names, policy=policy, wait=False)
print("ADDRESS", page.local_url, flush=True)
page.block_thread()
"""
HANGS = 120.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--styles", type=int, default=8)
    parser.add_argument("--side", type=int, default=128)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GRADIO_TEMP_DIR": f"{folder}/uploads", "GRADIO_ANALYTICS_ENABLED": "False"}
        command = [sys.executable, "-c", SERVER, folder, str(given.queue), str(given.styles)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as server:
            try:
                lines = iter(server.stdout.readline, "")
                address = next(line.split()[1] for line in lines if line.startswith("ADDRESS"))
                return asyncio.run(load(address, server.pid, given, Path(folder, "uploads")))
            finally:
                server.terminate()


async def load(address: str, pid: int, given: argparse.Namespace, uploads: Path) -> int:
    """All users at once, round after round; in the second half memory may not go on growing."""
    answers: Counter[str] = Counter()
    seconds: list[float] = []
    print(f"memory at the start: {memory(pid):.0f} MB")
    after = []
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)  # below the five seconds of the server
    async with httpx.AsyncClient(base_url=f"{address}gradio_api", timeout=HANGS, limits=limits) as client:
        begin = time.monotonic()
        for number in range(given.rounds):
            chances = [random.Random(1000 * number + user) for user in range(given.users)]
            await asyncio.gather(*(timed(client, chance, given, answers, seconds) for chance in chances))
            after.append(memory(pid))
        spent = time.monotonic() - begin
    print("memory after each round, MB:", *(f"{megabytes:.0f}" for megabytes in after))
    print(f"and at most {memory(pid, 'VmHWM'):.0f}")
    kept = [file.stat().st_size for file in uploads.rglob("*") if file.is_file()]
    print(f"{sum(answers.values())} requests of {given.users} users in {spent:.0f} s: {dict(answers)}")
    cuts = statistics.quantiles(seconds, n=20)
    print(
        f"{answers['styled'] / spent:.1f} pictures/s; median {statistics.median(seconds):.1f} s, 95 % {cuts[-1]:.1f} s"
    )
    print(f"files kept for half an hour: {len(kept)}, {sum(kept) / 1e6:.0f} MB")
    bad = answers["HANGS"] + answers["NO SENTENCE"] + answers["WRONG"]
    return int(bad > 0 or not answers["styled"] or after[-1] > after[len(after) // 2] * 1.1)


async def timed(
    client: httpx.AsyncClient, chance: random.Random, given: argparse.Namespace, answers: Counter, seconds: list
):
    begin = time.monotonic()
    try:
        said = await ask(client, chance, given)
    except httpx.TimeoutException:
        said = "HANGS"
    answers[said] += 1
    if said == "styled":
        seconds.append(time.monotonic() - begin)


async def ask(client: httpx.AsyncClient, chance: random.Random, given: argparse.Namespace) -> str:
    """One request, and in a word what came of it."""
    what = chance.choices(["picture", "leave", "address", "no picture", "setting"], [85, 10, 2, 2, 1])[0]
    data = b"no picture" if what == "no picture" else picture(chance, given.side)
    sent = await client.post("/upload", files={"files": ("photo.png", data)})
    path = "http://127.0.0.1:9/a.png" if what == "address" else sent.json()[0]
    image = {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}}
    arguments = [
        image,
        f"style{chance.randrange(given.styles)}",
        9 if what == "setting" else 1,
        "off",
        1,
        None,
        8,
        None,
        0,
    ]
    called = await client.post("/call/stylize", json={"data": arguments})
    if called.status_code == 503:
        return "busy" if "full" in called.text.lower() else "NO SENTENCE"
    if what == "leave":
        return "left"
    answer = await client.get(f"/call/stylize/{called.json()['event_id']}")
    if "event: complete" in answer.text:
        return "styled" if what == "picture" else "WRONG"
    if '"error": null' in answer.text or "data: null" in answer.text or len(answer.text) < 40:
        return "NO SENTENCE"
    return "refused" if what != "picture" else "busy" if "full" in answer.text.lower() else "WRONG"


def picture(chance: random.Random, side: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), chance.randbytes(3 * side * side)).save(buffer, "PNG")
    return buffer.getvalue()


def memory(pid: int, field: str = "VmRSS") -> float:
    """Of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    sys.exit(main())
