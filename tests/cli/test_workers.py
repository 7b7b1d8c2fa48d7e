"""Several processes train one model: the losses of one process, Ctrl-C, a worker that dies, torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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
dropout = 0.1
[training]
batch_tokens = 70
max_steps = 60
warmup_steps = 10
learning_rate = 0.005
validate_every = 20
average = 2
clip_norm = 1.0
[score]
valid_examples = 4
test_examples = 4
beams = 2
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    words = ["cat", "dog", "fox", "owl", "bee"]
    rows = [f"the {a} sees the {b}{' again' * (a < b)}\tle {a} voit le {b}\n" for a in words for b in words]
    (folder / "pairs.tsv").write_text("".join(rows))
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def begin(place: Path, run: str, *arguments: str, start: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    start = start or (sys.executable,)
    command = [*start, "-m", "regard", "train", "tiny.toml", "--threads", "1", "--out", run, *arguments]
    command += ["--set", "cost.energy=false"]  # what counts energy is a process of its own, among the workers
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "validated"]


def companion(leader: int) -> int:
    """The process number of the other worker."""
    return int(subprocess.run(["pgrep", "-P", str(leader)], capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """What two workers make when nobody disturbs them."""
    out = ended(begin(place, "whole", "--workers", "2"))
    assert out.count("the model is in whole/model") == 1  # one of them shows what happens
    return place / "whole"


@pytest.mark.parametrize("workers", [2, 3])
def test_the_losses_of_several_are_those_of_one(place, workers):
    exact = ["--set", "model.dropout=0.0"]
    ended(begin(place, f"one{workers}", *exact))
    ended(begin(place, f"several{workers}", *exact, "--workers", str(workers)))
    assert losses(place / f"several{workers}") == pytest.approx(losses(place / f"one{workers}"), rel=1e-4)


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_torchrun_starts_workers_too(place, whole):
    ended(begin(place, "torchrun", start=TORCHRUN))
    assert losses(place / "torchrun") == losses(whole)


def test_torchrun_starts_all_again_when_one_dies_and_the_run_goes_on(place, whole):
    again = (*TORCHRUN, "--max-restarts", "1")
    cut = ["--set", "processes.shard=true", "--set", "training.checkpoint_every=5"]
    process, killed, lines = begin(place, "again", *cut, start=again), False, []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 9 ") and not killed:
            killed = True
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = "".join(lines)
    assert told.count("going on from step") == 1
    assert told.count("the model is in again/model") == 1  # one of them shows what happens
    assert losses(place / "again") == pytest.approx(losses(whole), rel=1e-4)


def test_heads_that_cannot_be_cut_are_told_in_one_line(place):
    cut = ["--set", "processes.tensor_parallel=2", "--set", "model.attention_heads=1"]
    process = begin(place, "misfit", "--workers", "2", *cut)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    problem = "processes.tensor_parallel = 2 does not divide the number of heads of attention, 1"
    assert err == f"regard: {problem}\n"
    assert not (place / "misfit").exists()


@pytest.mark.parametrize("everyone", [True, False], ids=["the terminal's Ctrl-C", "a signal to the first"])
def test_ctrl_c_stops_all_at_the_same_step_and_resuming_goes_on_bit_for_bit(place, whole, everyone):
    run = f"stopped{everyone}"
    process = begin(place, run, "--workers", "2")
    for line in process.stdout:
        if line.startswith("step "):
            (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"go on with: regard train tiny.toml --out {run} --resume" in out
    assert "going on from step" in ended(begin(place, run, "--workers", "2", "--resume"))
    assert losses(place / run) == losses(whole)


def test_a_worker_that_dies_is_told_in_one_line_and_the_run_goes_on_from_its_checkpoint(place, whole):
    process = begin(place, "died", "--workers", "2", "--set", "training.checkpoint_every=5")
    for line in process.stdout:
        if line.startswith("step 9 "):
            os.kill(companion(process.pid), signal.SIGKILL)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "another worker is gone: go on from the last checkpoint with --resume" in err
    assert "Traceback" not in err
    ended(begin(place, "died", "--workers", "2", "--resume"))
    assert losses(place / "died") == losses(whole)


def test_when_the_first_dies_the_others_end_too(place):
    process = begin(place, "orphans", "--workers", "2", "--set", "training.max_steps=100000")
    next(line for line in process.stdout if line.startswith("step "))
    other = companion(process.pid)
    process.kill()
    process.communicate(timeout=60)
    limit = time.monotonic() + 30
    while Path(f"/proc/{other}").exists() and time.monotonic() < limit:
        time.sleep(0.1)
    assert not Path(f"/proc/{other}").exists()


def test_a_folder_that_holds_a_run_is_refused_once(place, whole):
    process = begin(place, "whole", "--workers", "2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("holds a run already") == 1
