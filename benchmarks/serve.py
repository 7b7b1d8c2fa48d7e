"""The service under load: many clients at once, each asking again as soon as it is answered.

    python benchmarks/serve.py --clients 200 --seconds 60

Nine requests of ten translate a sentence, one looks at a trace. Clients and service share the machine. Prints a table
of latencies and of the answers' status codes; fails if there was any other than 200, 429 and 503.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter

SENTENCES = (
    "Open the file.",
    "The package was not found.",
    "Click here to save your changes.",
    "This file could not be opened because it does not exist.",
    "Select the language that you want to use for the interface of the program.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", default="en-fr")
    chosen = parser.parse_args()
    command = [sys.executable, "-m", "regard", "serve", chosen.model, "--port", "0"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr is not None
        port = int(re.search(r":(\d+) ", service.stderr.readline())[1])
        asyncio.run(_until_ready(port))
        found = asyncio.run(_load(port, chosen.clients, chosen.seconds, chosen.model))
        batches = asyncio.run(_asked(port, "GET", "/metrics"))[1].decode()
    finally:
        service.terminate()
        code = service.wait(20)
    _told(chosen, found, batches)
    wrong = {status for _, status, _ in found} - {200, 429, 503}
    if wrong or code not in (0, -15):
        sys.exit(f"undocumented answers: {sorted(wrong)}; the service ended with {code}")


async def _until_ready(port: int) -> None:
    while True:
        try:
            if (await _asked(port, "GET", "/ready"))[0] == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)


async def _load(port: int, clients: int, seconds: float, model: str) -> list[tuple[str, int, float]]:
    """(path, status, seconds) of every request."""
    found: list[tuple[str, int, float]] = []
    ends = time.perf_counter() + seconds

    async def client(number: int) -> None:
        chance = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < ends:
            path = "/api/run/translate" if chance.random() < 0.9 else "/api/trace"
            body = {"model": model, "texts": [chance.choice(SENTENCES)]}
            began = time.perf_counter()
            status, _ = await _exchange(reader, writer, "POST", path, body)
            found.append((path, status, time.perf_counter() - began))
            if status in (429, 503):
                await asyncio.sleep(1)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return found


async def _asked(port: int, method: str, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await _exchange(reader, writer, method, path, None)
    finally:
        writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: object
) -> tuple[int, bytes]:
    """One request on an open connection; by hand, so that the clients take as little of the machine as can be."""
    sent = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", lines)
    return int(lines.split()[1]), await reader.readexactly(int(length[1]) if length else 0)


def _told(chosen: argparse.Namespace, found: list[tuple[str, int, float]], metrics: str) -> None:
    texts = float(re.search(r"regard_batch_texts_sum (\S+)", metrics)[1])
    batches = float(re.search(r"regard_batch_texts_count (\S+)", metrics)[1])
    print(f"{chosen.clients} clients for {chosen.seconds:g} s, {os.cpu_count()} cores, model {chosen.model}: "
          f"{len(found) / chosen.seconds:,.0f} requests a second, {texts / batches:.1f} texts together\n")  # fmt: skip
    print("| request | answers | median, ms | 90 %, ms | 99 %, ms | longest, ms |")
    print("| - | - | -: | -: | -: | -: |")
    for path in sorted({path for path, _, _ in found}):
        codes = Counter(status for one, status, _ in found if one == path)
        times = sorted(1000 * seconds for one, status, seconds in found if one == path and status == 200)
        at = [times[min(len(times) - 1, int(share * len(times)))] for share in (0.5, 0.9, 0.99, 1.0)]
        listed = ", ".join(f"{count:,} x {status}" for status, count in sorted(codes.items()))
        print(f"| {path} | {listed} | {' | '.join(f'{one:,.0f}' for one in at)} |")


if __name__ == "__main__":
    main()
