"""`regard train` as a person drives it: progress, Ctrl-C, resumption, a full disk."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """
name = "tiny"
[data]
train = "pairs.tsv"
valid = "pairs.tsv"
test = "pairs.tsv"
[tokenizer]
vocab_size = 400
[model]
d_model = 16
encoder_layers = 1
decoder_layers = 1
attention_heads = 2
ffn_dim = 32
[training]
batch_tokens = 60
max_steps = 60
warmup_steps = 10
validate_every = 20
average = 2
[score]
valid_examples = 4
test_examples = 4
beams = 2
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    words = ["cat", "dog", "fox", "owl", "bee"]
    rows = [f"the {a} sees the {b}\tle {a} voit le {b}\n" for a in words for b in words]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path


def begin(place: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "regard", "train", "tiny.toml", "--threads", "1", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": place}
    return subprocess.Popen(command, **pipes, **options)  # type: ignore[call-overload]


def losses(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if row["event"] == "validated"]


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_the_run_goes_on_with_the_same_losses(place):
    whole = begin(place, "--out", "whole")
    out, err = whole.communicate()
    assert whole.returncode == 0, err
    assert "test part: BLEU" in out
    assert "the model is in whole/model" in out

    stopped = begin(place, "--out", "stopped")
    for line in stopped.stdout:
        if line.startswith("step "):  # the first line of progress
            stopped.send_signal(signal.SIGINT)
            break
    out, err = stopped.communicate()
    assert stopped.returncode == 130, err
    assert "Traceback" not in err
    assert "go on with: regard train tiny.toml --out stopped --resume" in out

    resumed = begin(place, "--out", "stopped", "--resume")
    out, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert "going on from step" in out
    assert losses(place / "stopped") == losses(place / "whole")


def test_a_run_is_not_overwritten(place):
    (place / "runs" / "tiny").mkdir(parents=True)
    (place / "runs" / "tiny" / "checkpoint.safetensors").write_bytes(b"")
    ended = begin(place)
    _, err = ended.communicate()
    assert ended.returncode == 2
    assert "holds a run already" in err


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(place):
    def no_room() -> None:  # files may not grow over 20 kB: a checkpoint does not fit
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ended = begin(place, preexec_fn=no_room)
    _, err = ended.communicate()
    assert ended.returncode == 2, err
    assert err.count("\n") == 1
    assert "cannot write" in err
    left = [file for file in place.rglob("*") if file.is_file() and file.suffix == ".safetensors"]
    assert left == []
    assert not [name for name in os.listdir(place / "runs" / "tiny") if "partial" in name]  # noqa: PTH208


@pytest.mark.slow
def test_seeds_are_trained_one_after_the_other_summed_up_and_drawn(place):
    steps = ("--set", "training.max_steps=4", "--set", "cost.energy=false")
    several = begin(place, "--out", "several", "--seeds", "2", "--price-per-hour", "3.5", *steps)
    out, err = several.communicate()
    assert several.returncode == 0, err
    assert "seed 2 (2 of 2): several/seed-2" in out
    assert "over 2 seeds" in out
    assert "EUR" in out
    runs = ["several/seed-1", "several/seed-2"]
    drawn = subprocess.run([sys.executable, "-m", "regard", "plot", *runs, "--out", "x.png"], cwd=place, check=True)
    assert drawn.returncode == 0
    assert (place / "x.png").read_bytes().startswith(b"\x89PNG")
