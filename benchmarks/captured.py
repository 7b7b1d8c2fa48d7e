"""Steps of fixed shapes (generation/static.py): plain, compiled, recorded; beside a model's own and the engine's.

A Transformer of the base shape, 25 words in and 25 out, and a GPT-2 of the small shape, 16 tokens and 64 more; random
weights, fp32 unless named. On a CPU, or on a GPU with `--device cuda` (then the recorded steps too, bf16 and fp8).

    python benchmarks/captured.py --markdown
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from side_by_side import Contender, interleaved, keep, ratio

WORK = (("translation", 1, 1), ("translation", 1, 4), ("translation", 16, 4), ("language", 1, 1))
"""What is written, how many texts at once, and with how many beams."""
WAYS = ("own", "none", "compile", "graph", "engine")


def contender(device: str, way: str, precision: str, layers: int) -> Callable:
    import torch

    from regard import Sequences
    from regard.generation.engine import prepare
    from regard.generation.search import Search, search
    from regard.generation.static import prepare_static
    from regard.models.gpt import GPT, PRESETS
    from regard.models.transformer import Transformer, TransformerConfig

    torch.manual_seed(0)
    base = TransformerConfig(vocab_size=32000, encoder_layers=layers, decoder_layers=layers)
    small = PRESETS["gpt2"].model_copy(update={"n_layer": 2 * layers})
    models = {"translation": Transformer(base), "language": GPT(small)}
    ready = {}
    for kind, model in models.items():
        model = model.eval().to(device)
        own = prepare(model, precision) if way == "engine" else model
        ready[kind] = own if way in ("own", "engine") else prepare_static(model, precision, way)

    def run(kind: str, texts: int, beams: int) -> float:
        if kind == "translation":
            source = Sequences.of_ids([[number + 3 for number in range(25)]] * texts, device)
            how = Search(1, -1, beams, extra_length=0)
        else:
            source = Sequences.of_ids([[number + 3 for number in range(16)]] * texts, device)
            how = Search(None, -1, beams, extra_length=64)
        begun = time.perf_counter()
        search(ready[kind], source, how)  # it ends with numbers on the CPU: nothing is left to wait for
        return time.perf_counter() - begun

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="own is always needed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6, help="of encoder and decoder; GPT has twice as many")
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    ways = [("own steps", "own", "fp32"), ("fixed shapes", "none", "fp32"), ("compiled", "compile", "fp32")]
    if options.device == "cpu":
        ways.append(("engine", "engine", "fp32"))
    else:
        ways += [(f"recorded {precision}", "graph", precision) for precision in ("fp32", "bf16", "fp8")]
        ways.append(("compiled bf16", "compile", "bf16"))
    ways = [way for way in ways if way[1] in options.ways]
    contenders = [Contender(name, contender, options.device, *rest, options.layers) for name, *rest in ways]
    lines = ["| | " + " | ".join(f"{kind} x {texts}, {beams} beam(s)" for kind, texts, beams in WORK) + " |"]
    lines.append("| - |" + " -: |" * len(WORK))
    cells: dict[str, list[str]] = {one.name: [] for one in contenders}
    for work in WORK:
        first = {one.name: one.result(*work) for one in contenders}
        seconds = interleaved(contenders, options.rounds, *work)
        for name, found in seconds.items():
            told = f"{statistics.median(found) * 1000:,.0f} ms, {ratio(found, seconds['own steps']):.2f} x"
            cells[name].append(f"{told}, first {first[name]:.1f} s")
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in cells.items()]
    lines += [
        "",
        "x: as fast as the model's own steps. In the first run things are compiled, recorded, allocated.",
    ]
    print("\n" + "\n".join(lines))
    if options.markdown:
        keep("captured", "Steps of fixed shapes", " ".join(["python benchmarks/captured.py", *sys.argv[1:]]), lines)
    for one in contenders:
        one.end()


if __name__ == "__main__":
    main()
