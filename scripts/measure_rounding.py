"""What rounded weights cost: the perplexity of reference answers in each precision.

python scripts/measure_rounding.py en-fr corpus/en-fr.test.tsv
python scripts/measure_rounding.py g2p cmudict
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

from regard.data.sources import Pair, read_cmudict, read_pairs
from regard.generation.engine import Engine
from regard.native.matrices import PRECISIONS
from regard.pipelines import load_text_to_text
from regard.pipelines.text_to_text import TextToText
from regard.sequences import Sequences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="FILE.tsv, or cmudict")
    options = parser.parse_args()
    pairs = read_cmudict()["test"] if options.data == "cmudict" else list(read_pairs(options.data))
    for precision in PRECISIONS:
        print(f"{precision}\tperplexity {perplexity(load_text_to_text(options.model, precision), pairs):.4f}")


@torch.inference_mode()
def perplexity(loaded: TextToText, pairs: list[Pair]) -> float:
    """e^(mean negative log-probability of a token of the first reference, the end included)."""
    engine: Any = loaded.generator()
    assert isinstance(engine, Engine), "this measures the engine"
    config, total, count = loaded.model.config, 0.0, 0
    for start in range(0, len(pairs), 128):
        chosen = pairs[start : start + 128]
        targets = [loaded.codec.target.encode(pair.target) for pair in chosen]
        targets = [[*ids, config.eos_token_id] if ids[-1:] != [config.eos_token_id] else ids for ids in targets]
        state = engine.start(Sequences.of_ids([loaded.codec.source.encode(pair.source) for pair in chosen]))
        read = [config.bos_token_id] * len(chosen)
        for place in range(max(map(len, targets))):
            logits, state = engine.step(torch.tensor(read), state)
            scores = logits.log_softmax(dim=-1)
            for row, target in enumerate(targets):
                if place < len(target):
                    total, count = total - float(scores[row, target[place]]), count + 1
            read = [target[place] if place < len(target) else config.eos_token_id for target in targets]
    return math.exp(total / count)


if __name__ == "__main__":
    main()
