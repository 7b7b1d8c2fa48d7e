"""Matrix products of training: this package's native code beside PyTorch's, each in a process of its own.

The three products of a linear map that learns: y = x W^T, and the gradients dx = dy W and dW = dy^T x, for 2,048 tokens
in the widths of `train_systems.py`. GFLOP/s, the median of the rounds; and how far the largest error is from the
product of the same numbers in float64, over the largest value. In bf16 weights come as float32 and their gradient goes
as float32, as under autocast.

    python benchmarks/products.py --keep                  # the table in RESULTS.md
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

from side_by_side import Contender, interleaved, keep, ratio

TOKENS = 2048
SHAPES = ((256, 256), (256, 768), (256, 1024), (1024, 256), (512, 2048), (256, 4000))
"""Inputs and outputs of the maps."""
KINDS = ("x W^T", "dy W", "dy^T x")
PRECISIONS = ("fp32", "bf16")
REPEATS = 10


def make(peer: str, precision: str, kind: str, inputs: int, outputs: int, threads: int) -> Callable[[], float]:
    """Ten products; returns the error of the last one."""
    import torch

    from regard.native import products
    from regard.training.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    half = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight, d_y = torch.randn(TOKENS, inputs).to(half), torch.randn(outputs, inputs), torch.randn(TOKENS, outputs)
    d_y, found = d_y.to(half), torch.float32 if kind == "dy^T x" else half
    a, b = {"x W^T": (x, weight.t()), "dy W": (d_y, weight), "dy^T x": (d_y.t(), x)}[kind]

    def multiply() -> Any:
        return products.multiplied(a, b, dtype=found) if peer == "regard" else torch.mm(a, b.to(half)).to(found)

    exact = a.double() @ b.to(half).double()
    error = float((multiply() - exact).abs().max() / exact.abs().max())

    def several() -> float:
        for _ in range(REPEATS):
            multiply()
        return error

    return several


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    lines = [
        "| precision | product | inputs, outputs | PyTorch | error | regard | error | regard is |",
        "| - | - | - | -: | -: | -: | -: | -: |",
    ]
    for precision, kind, (inputs, outputs) in product(options.precision, KINDS, SHAPES):
        made = [
            Contender(peer, make, peer, precision, kind, inputs, outputs, options.threads)
            for peer in ("PyTorch", "regard")
        ]
        errors = {one.name: one.result() for one in made}
        seconds = interleaved(made, options.rounds)
        for one in made:
            one.end()
        operations = 2 * TOKENS * inputs * outputs * REPEATS / 1e9
        cells = [f"{operations / statistics.median(seconds[peer]):.0f} | {errors[peer]:.1e}" for peer in errors]
        cells.append(f"{ratio(seconds['regard'], seconds['PyTorch']):.2f} x")
        lines.append(f"| {precision} | {kind} | {inputs}, {outputs} | {' | '.join(cells)} |")
    print("\n" + "\n".join(lines))
    if options.keep:
        command = " ".join(["python benchmarks/products.py", *sys.argv[1:]])
        lines = [
            f"GFLOP/s with {options.threads} thread(s), {TOKENS:,} tokens; error: the largest, over the largest value.",
            "",
            *lines,
        ]
        keep("products", "Matrix products of training", command, lines)


if __name__ == "__main__":
    main()
