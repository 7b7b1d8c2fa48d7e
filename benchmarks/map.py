"""A text of 32,000 tokens on the explorer's page: how long until its map is seen, and what the page keeps.

    python benchmarks/map.py --tokens 32000

A decoder with random weights reads random letters; Chromium opens the Heads view of the trace, looks at several heads
and moves about. Prints the time to the first tile (from the page's question to its painting, and from the choice of a
head), to the exact map, and the page's memory.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import threading
import time
from typing import Any
from urllib.parse import urlencode

import torch
import uvicorn
from playwright.sync_api import sync_playwright

from regard.modalities.subwords import train_subwords
from regard.models.gpt import GPT, GPTConfig
from regard.pipelines.language_model import LanguageModel
from regard.serve.app import create_app
from regard.serve.server import _listen
from regard.serve.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--looks", type=int, default=16, help="How many heads there are, and are looked at in turn.")
    chosen = parser.parse_args()
    settings = Settings(models=("long",), port=0, length=8 * chosen.tokens, body=1 << 24, seconds=600)
    service = create_app(settings, lambda _: _model(chosen))
    socket = _listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(service, log_level="warning"))
    threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True).start()
    try:
        _look(f"http://127.0.0.1:{socket.getsockname()[1]}", chosen)
    finally:
        server.should_exit = True


def _model(chosen: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    tokenizer = train_subwords("bytes", ["abc"], 257)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        n_positions=chosen.tokens,
        n_embd=chosen.width,
        n_layer=chosen.layers,
        n_head=chosen.looks,
    )
    return LanguageModel("long", GPT(config).eval(), tokenizer)


def _look(address: str, chosen: argparse.Namespace) -> None:
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz   ", k=chosen.tokens - 40)
    state = {"text": " ".join("".join(letters).split()), "view": "heads"}
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--enable-precise-memory-info"]
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(600_000)
        began = time.perf_counter()
        page.goto(f"{address}/#{urlencode(state)}")
        page.wait_for_selector("canvas[data-first]")
        print(
            f"opened, read and traced {chosen.tokens:,} tokens: {time.perf_counter() - began:.1f} s to the first tile\n"
        )
        print("| | median, ms | largest, ms |\n| - | -: | -: |")
        tiles, chosen_to_tile = [], []
        for head in range(1, chosen.looks):
            page.evaluate("window.asked = performance.now()")
            page.locator('[data-key="head"]').select_option(str(head))
            page.wait_for_selector(f'canvas[data-first][data-head="{head}"]')
            chosen_to_tile.append(page.evaluate("performance.now() - window.asked"))
            tiles.append(float(page.get_attribute("canvas", "data-first")))
        for name, times in (
            ("the map asked for to its first tile painted", tiles),
            ("head chosen to the same", chosen_to_tile),
        ):
            print(f"| {name} | {statistics.median(times):,.0f} | {max(times):,.0f} |")
        began = time.perf_counter()
        page.wait_for_selector('canvas[data-exact="true"]')
        print(f"\nuntil every cell of the whole map is exact: {time.perf_counter() - began:.1f} s")
        page.locator("canvas").focus()
        for move in range(60):
            page.keyboard.press(random.Random(move).choice(["ArrowRight", "ArrowDown", "+", "-"]))
            page.wait_for_timeout(100)
        memory = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
        print(f"\nthe page's JavaScript heap after 60 moves: {memory:.0f} MiB")


if __name__ == "__main__":
    main()
