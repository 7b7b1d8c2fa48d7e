"""Several processes that know each other, as `torchrun` would start them, forked from one: what is imported is so once.

For programs that the tests start (`cut_models.py`, `cut_runs.py`); the process that forks computes nothing itself.
"""

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def begin(count: int, act: Callable[[], object], into: Path, attempt: int = 0) -> list[int]:
    """`count` processes that run `act`; what the first one's comes to is written as JSON. Their process numbers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(count):
        process = os.fork()
        if process:
            processes.append(process)
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": str(attempt)}
        code = 1
        try:
            found = act()
            if rank == 0:
                into.write_text(json.dumps(found))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return processes


def run(count: int, act: Callable[[], object], into: Path) -> None:
    """The same, to a good end."""
    codes = [os.waitpid(process, 0)[1] for process in begin(count, act, into)]
    if any(codes):
        sys.exit(f"{into.name}: {codes}")


def run_killed(
    count: int, act: Callable[[], object], into: Path, kills: int, chance: random.Random, growing: Path
) -> None:
    """The same, but `kills` times one of them is killed, some lines of a file later, and all begin again."""
    for attempt in range(kills + 1):
        wanted = _lines(growing) + chance.randint(1, 5)
        processes = begin(count, act, into, attempt)
        if attempt < kills:
            while _lines(growing) < wanted and not any(map(_ended, processes)):
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.1))
            os.kill(chance.choice(processes), signal.SIGKILL)
        codes = [os.waitpid(process, 0)[1] for process in processes]
    if any(codes):
        sys.exit(f"{into.name}: {codes}")


def _ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
