"""What a trace costs: time, peak memory and the bytes of a page, this package beside its peers, in one run.

Everyone gets a BERT of base shape (12 layers of width 768, 12 heads; 4,096 positions) with the same random weights,
loaded from one folder that Hugging Face wrote; TransformerLens (below 3, whose models can be made from sizes alone;
later ones wrap those of Hugging Face) gets a model of the same shape that reads to the left
(it has no BERT of 4,096 positions). One text of random tokens, float32.

Every contender lives in a process of its own and waits while another works. Seconds are medians over the rounds, which
are interleaved; a ratio is the median over the rounds of the two times of a round. Memory is what the peak of a fresh
process's resident size (VmHWM, reset before) grows by in one run, above the model after a small warm-up run: weights
and library are not counted, what the run keeps is.

    python benchmarks/trace.py --markdown     # the table in RESULTS.md
    python benchmarks/trace.py --pages        # bytes of an explanation of 128 tokens
    python benchmarks/trace.py --long         # a map of 32,768 tokens in a decoder of 12 layers
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
VOCABULARY, LAYERS, WIDTH, HEADS, POSITIONS = 30522, 12, 768, 12, 4096
PLAIN, TRACED = "regard, plain run", "regard, trace"
_SECTION = "## What a trace costs"


# --- the contenders: each gives a function from a length to what a run leaves -----------------------------------------


def write_model(folder: Path) -> None:
    """A BERT with random weights, as Hugging Face saves it."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(max_position_embeddings=POSITIONS)).save_pretrained(folder)


def tokens(length: int):
    import torch

    return torch.randint(1000, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))


def our_model(folder: Path):
    """The folder, read without a tokenizer."""
    import json

    from regard.hub import bert
    from regard.hub.huggingface import read_tensors
    from regard.models.bert import Bert

    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Bert(bert.read_config({**fields, "architectures": ["BertModel"]}))
    model.load_state_dict(bert.read_weights(model.config, read_tensors(folder)))
    return model.eval()


def plain(folder: Path) -> Callable:
    from regard import Sequences

    model = our_model(folder)
    return lambda length: model.hidden(Sequences.of([tokens(length)]))


def traced(folder: Path) -> Callable:
    from regard import Sequences, Trace

    model = our_model(folder)
    return lambda length: Trace(model, Sequences.of([tokens(length)]))


def their_model(folder: Path, attention: str):
    from transformers import BertModel

    return BertModel.from_pretrained(folder, attn_implementation=attention).eval()


def hugging_face(folder: Path) -> Callable:
    model = their_model(folder, "sdpa")
    return lambda length: model(tokens(length)[None])


def hugging_face_weights(folder: Path) -> Callable:
    model = their_model(folder, "eager")
    return lambda length: model(tokens(length)[None], output_attentions=True, output_hidden_states=True)


def transformer_lens(folder: Path) -> Callable:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, d_head=WIDTH // HEADS, d_mlp=4 * WIDTH, n_ctx=POSITIONS,
        d_vocab=VOCABULARY, act_fn="gelu", seed=0,
    )  # fmt: skip
    model = HookedTransformer(config).eval()
    # No prediction of words: the others have none either.
    return lambda length: model.run_with_cache(tokens(length)[None], return_type=None)


CONTENDERS: dict[str, Callable] = {
    PLAIN: plain,
    TRACED: traced,
    "Hugging Face, plain run": hugging_face,
    "Hugging Face, output_attentions": hugging_face_weights,
    "TransformerLens, run_with_cache": transformer_lens,
}
EXPLAINING = [name for name in CONTENDERS if name not in (PLAIN, "Hugging Face, plain run", TRACED)]


# --- one process for each ---------------------------------------------------------------------------------------------


def work(pipe: Connection, name: str, folder: Path, threads: int) -> None:
    """Load, warm up, then run as often as asked: ("time", length) or ("memory", length)."""
    import torch

    torch.set_num_threads(threads)
    with torch.no_grad():
        run = CONTENDERS[name](folder)
        run(16)
        pipe.send(None)
        for order, length in iter(pipe.recv, None):
            before = resident("VmRSS")
            if order == "memory":
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
            begun = time.perf_counter()
            left = run(length)
            seconds = time.perf_counter() - begun
            pipe.send(seconds if order == "time" else resident("VmHWM") - before)
            del left


def resident(kind: str) -> float:
    """MiB, now (VmRSS) or at most (VmHWM)."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


def start(name: str, folder: Path, threads: int) -> Connection:
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    context.Process(target=work, args=(far, name, folder, threads), daemon=True).start()
    far.close()  # so that a contender that fails ends the wait
    pipe.recv()
    return pipe


# --- what is measured -------------------------------------------------------------------------------------------------


def compare(options: argparse.Namespace, folder: Path) -> list[str]:
    """Seconds and MiB of each contender at each length."""
    names = [name for name in CONTENDERS if name in options.contenders]
    pipes = {name: start(name, folder, options.threads) for name in names}
    seconds: dict[tuple[str, int], list[float]] = {}
    for length in options.lengths:
        for number in range(options.rounds + 1):
            for name, pipe in pipes.items():
                pipe.send(("time", length))
                found = pipe.recv()
                if number:
                    seconds.setdefault((name, length), []).append(found)
            print(".", end="", file=sys.stderr, flush=True)
    for pipe in pipes.values():
        pipe.send(None)
    lines = [
        "",
        "| tokens | | ms | x plain run | MiB above the weights | x plain run |",
        "| -: | - | -: | -: | -: | -: |",
    ]
    for length in options.lengths:
        memory = {name: peak(name, length, folder, options) for name in names}
        for name in names:
            mine = seconds[name, length]
            times = statistics.median(a / b for a, b in zip(mine, seconds[PLAIN, length], strict=True))
            lines.append(
                f"| {length:,} | {name} | {1000 * statistics.median(mine):,.0f} | {times:.2f} | "
                f"{memory[name]:,.0f} | {memory[name] / memory[PLAIN]:.2f} |"
            )
    print(file=sys.stderr)
    return lines


def peak(name: str, length: int, folder: Path, options: argparse.Namespace) -> float:
    """The median over fresh processes: a heap that has been used keeps pages that a fresh one must ask for.

    Every large tensor gets pages of its own there (glibc's threshold is held), so that holes in the heap, which come
    and go by chance, are not counted.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 17)
    found = []
    for _ in range(options.processes):
        pipe = start(name, folder, options.threads)
        pipe.send(("memory", length))
        found.append(pipe.recv())
        pipe.send(None)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return statistics.median(found)


def pages() -> list[str]:
    """Bytes of a page that explains one sentence of 128 tokens, all heads of a layer or more to be looked at."""
    import torch
    from bertviz import head_view, model_view

    from regard import Sequences, Trace
    from regard.explain.walkthrough import walk
    from regard.models.bert import PRESETS, Bert

    torch.manual_seed(0)
    model = Bert(PRESETS["bert-base"]).eval()
    trace = Trace(model, Sequences.of([tokens(128)]))
    weights = [trace.steps(place)["self_attention.weights"][None] for place in trace.layers]
    words = [f"word{number}" for number in range(128)]
    sizes = {"regard, one word through one layer, all heads": len(walk(trace, 5).to_html().encode())}
    for name, view in (("bertviz, head_view", head_view), ("bertviz, model_view", model_view)):
        sizes[name] = len(view(weights, words, html_action="return").data.encode())
    lines = ["", "| a page of 128 tokens, BERT of base shape | MB |", "| - | -: |"]
    return lines + [f"| {name} | {size / 1e6:,.2f} |" for name, size in sizes.items()]


def long_document(threads: int) -> list[str]:
    """One head's map of a long document."""
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    context.Process(target=map_of_long, args=(far, threads), daemon=True).start()
    far.close()
    length, taking, asking, memory = pipe.recv()
    told = f"""
A document of {length:,} tokens, a decoder of 12 layers and width 768: the trace is taken in {taking:.0f} s; one head's
whole map, 256 x 256 cells, is answered in {asking:.0f} s. Peak above the weights: {memory:,.0f} MiB (the map alone has
{length**2 * 4 / 2**20:,.0f} MiB)."""
    return told.splitlines()


def map_of_long(pipe: Connection, threads: int) -> None:
    import torch

    from regard import Sequences, Trace
    from regard.models.gpt import GPT, GPTConfig

    torch.set_num_threads(threads)
    length = 32_768
    with torch.no_grad():
        model = GPT(GPTConfig(n_positions=length, normalize_before=True)).eval()
        model.hidden(Sequences.of([tokens(16)]))
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        begun = time.perf_counter()
        trace = Trace(model, Sequences.of([tokens(length)]))
        taken = time.perf_counter()
        trace.map(6, 3)
        pipe.send((length, taken - begun, time.perf_counter() - taken, resident("VmHWM") - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512, 2048, 4096])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3, help="fresh processes for each figure of memory")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pages", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--markdown", action="store_true", help=f"write the table into {RESULTS.name}")
    options = parser.parse_args()
    if options.pages:
        lines = pages()
    elif options.long:
        lines = long_document(options.threads)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_model(Path(folder))
            lines = compare(options, Path(folder))
    print("\n".join(lines))
    if options.markdown:
        keep(lines, options)


def keep(lines: list[str], options: argparse.Namespace) -> None:
    """Put this run's lines into RESULTS.md, in place of the last ones of their kind."""
    kind = "pages" if options.pages else "long" if options.long else "costs"
    command = "python benchmarks/trace.py" + {"pages": " --pages", "long": " --long", "costs": ""}[kind]
    text = RESULTS.read_text(encoding="utf-8")
    if _SECTION not in text:
        text = f"{text.rstrip()}\n\n{_SECTION}\n"
    machine = f"`{command}`, {options.threads} threads, {platform.machine()}, Python {platform.python_version()}"
    block = f"<!-- {kind} -->\n{machine}\n" + "\n".join(lines) + f"\n<!-- end of {kind} -->"
    pattern = re.compile(rf"<!-- {kind} -->.*?<!-- end of {kind} -->", re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
