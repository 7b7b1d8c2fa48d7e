"""Plans: each sum against what a model really keeps, sends or computes; the search; and its errors."""

import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.models.catalog import MODELS
from regard.native import products
from regard.sequences import Sequences
from regard.training.flops import training_flops
from regard.training.planning.communication import Ring
from regard.training.planning.devices import GPUS, device_of, this_machine
from regard.training.planning.layout import Layout
from regard.training.planning.memory import activation_bytes, memory_of
from regard.training.planning.plan import Place, _counted, layouts, plan, recipe_settings
from regard.training.planning.told import as_facts, table, told
from regard.training.planning.workload import RECURRENT, Workload, _workload, workload_of
from regard.training.recipe import load_recipe, parse_recipe
from regard.training.trainer import train

H100 = Place(device_of("h100"))
SIZES = {
    "seq2seq": {"embedding_size": 64, "hidden_size": 96, "num_hidden_layers": 2},
    "rnnsearch": {"embedding_size": 64, "hidden_size": 96, "attention_size": 48, "maxout_size": 32},
    "transformer": {"d_model": 64, "attention_heads": 4, "ffn_dim": 256, "encoder_layers": 2, "decoder_layers": 3},
    "gpt": {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 64},
    "llama": {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 172},
    "bert": {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 256,
             "heads": ("masked_words",)},
    "awd_lstm": {"embedding_size": 64, "hidden_size": 96, "num_hidden_layers": 3},
}  # fmt: skip
TASKS = {"gpt": "language-model", "llama": "language-model", "awd_lstm": "language-model", "bert": "masked-words"}
KINDS = {"language-model": "bytes", "masked-words": "wordpiece", "text-to-text": "bpe"}
TWO_SIDED = ("transformer", "seq2seq", "rnnsearch")


def recipe_of(name, *changes):
    task = TASKS.get(name, "text-to-text")
    kind = "words" if name == "awd_lstm" else KINDS[task]
    text = f"""
        name = "mine"
        task = "{task}"
        [data]
        train = "nowhere.tsv"
        valid = "nowhere.tsv"
        test = "nowhere.tsv"
        [tokenizer]
        kind = "{kind}"
        [model]
        type = "{name}"
    """
    return parse_recipe(text, "test", [f"model.{key}={value}" for key, value in changes] if changes else [])


@cache
def work_of(name: str, *changes: str) -> Workload:
    return workload_of(load_recipe(name, list(changes)))


def small(name: str, precision: str = "fp32", rows: int = 8, length: int = 40) -> tuple[Workload, torch.nn.Module]:
    """A workload of one small model, and the model."""
    kind = MODELS[name]
    model = kind(kind.config_class.model_validate({"vocab_size": 401, **SIZES[name]})).train()
    tokens = rows * length * (2 if name in TWO_SIDED else 1)
    recipe = recipe_of(name)
    training = recipe.training.model_copy(update={"precision": precision, "batch_tokens": tokens})
    return _workload(recipe.model_copy(update={"training": training}), model, float(length), None, ""), model


def kept(model, name: str, precision: str, rows: int = 8, length: int = 40) -> tuple[int, int]:
    """Bytes that autograd keeps for the backward pass: of activations, and of copies of weights."""
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor):
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    texts = Sequences.of([torch.randint(3, 400, (length,)) for _ in range(rows)])
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), half:
        _ = model(texts, texts) if name in TWO_SIDED else model(texts)
    others = [one for place, one in found.items() if place not in own]
    of_texts = {rows, length, rows * length}
    halves = [one for one in others if one.dtype == torch.bfloat16 and one.dim() == 2]
    copies = [one for one in halves if not of_texts & set(one.shape)]
    sizes = [sum(one.untyped_storage().nbytes() for one in part) for part in (others, copies)]
    return sizes[0] - sizes[1], sizes[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SIZES)
def test_activations_are_what_autograd_keeps(name, precision):
    work, model = small(name, precision)
    counted = activation_bytes(work, float(work.batch_tokens), Layout(), cpu=True)
    real, _ = kept(model, name, precision)
    assert counted == pytest.approx(real, rel=0.3)


@pytest.mark.parametrize("name", [name for name in SIZES if name not in RECURRENT])  # whose native loops keep none
def test_copies_of_matrices_are_what_autograd_keeps_where_pytorch_multiplies(name, monkeypatch):
    work, model = small(name, "bf16")
    few = kept(model, name, "bf16")[1]
    monkeypatch.setattr(products, "_WORTH", math.inf)
    copies = kept(model, name, "bf16")[1]
    assert memory_of(work, Layout(), device_of("h100")).copies == pytest.approx(copies, rel=0.05)
    assert memory_of(work, Layout(), replace(device_of("h100"), name="cpu")).copies == 0
    assert few < copies / 4


@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_checkpointing_keeps_what_enters_each_layer_and_one_layer(name):
    work, _ = small(name)
    whole, again = (activation_bytes(work, 1e4, Layout(checkpointing=way), cpu=False) for way in (False, True))
    assert again < whole / 1.5
    deeper = work.sizes.layers * 4 * work.sizes.width * 1e4 / work.sides
    assert again > deeper


def test_model_states_are_those_of_zero():
    """Rajbhandari et al. 2020, figure 1: 16 bytes a parameter with Adam, an N-th of it in each of N processes."""
    work = work_of("gpt-350m", "training.average=1")
    one, eight = (memory_of(work, Layout(data, 1, data > 1), H100.device) for data in (1, 8))
    states = [m.weights + m.gradients + m.optimizer for m in (one, eight)]
    assert states == [16 * work.parameters, 2 * work.parameters]


def test_shapes_on_the_meta_device_are_those_of_published_models():
    counted = {name: work_of(name).parameters / 1e6 for name in PUBLISHED}
    assert counted == pytest.approx(PUBLISHED, rel=0.04)


# Vaswani et al. 2017, table 3; GPT-2 medium; Touvron et al. 2023.
PUBLISHED = {"transformer-base": 65, "transformer-big": 213, "gpt-350m": 354.8, "llama-7b": 6738, "llama-70b": 68977}


@given(members=st.integers(2, 64), size=st.floats(1e3, 1e9))
def test_a_ring_sends_what_a_simulated_one_sends(members, size):
    """Every process passes one part of the whole on, so often as there are others."""
    sent = sum(size / members for _ in range(members - 1))
    ring = Ring(members, members, H100.device)
    assert ring.gather(size)[0] == pytest.approx(sent)
    assert ring.reduce(size)[0] == pytest.approx(2 * sent)
    assert ring.gather(size)[1] > sent / H100.device.link


def test_messages_are_those_of_the_papers():
    work = work_of("llama-7b")
    whole = _counted(work, Layout(8), H100).messages
    assert whole.data_bytes == pytest.approx(2 * 7 / 8 * 4 * work.parameters)
    cut = _counted(work, Layout(8, shard=True, micro_batches=4), H100).messages
    assert cut.data_bytes == pytest.approx(4 * 3 * 7 / 8 * 4 * work.parameters)  # ZeRO, section 7.2
    together = _counted(work, Layout(1, 8), H100).messages
    # Narayanan et al. 2021, section 3.2: 8 b s h (t - 1) / t values a layer, here of two bytes.
    assert together.tensor_bytes == pytest.approx(32 * 8 * work.batch_tokens * 4096 * 7 / 8 * 2)


@pytest.mark.parametrize("gpus", [1, 2, 8, 48])
def test_the_fastest_that_fits_is_taken(gpus):
    work = work_of("gpt-350m", "training.batch_tokens=65536")
    found = plan(work, gpus, H100)
    assert found.layout.gpus == gpus
    assert found.memory.total <= H100.device.memory
    for layout in layouts(work, gpus, H100):
        assert layout.gpus == gpus
        other = _counted(work, layout, H100)
        assert other.memory.total > 0.92 * H100.device.memory or other.duration.total >= found.duration.total - 1e-9


@given(gpus=st.sampled_from([1, 2, 4, 8, 16]))
def test_more_of_everything_costs_more(gpus):
    work, _ = small("transformer", "bf16", rows=64)
    layout = Layout(gpus)
    slow, fast = (_counted(work, layout, Place(device_of(name))) for name in ("l4", "h100"))
    assert slow.duration.total > fast.duration.total
    dear = _counted(work, layout, Place(device_of("h100"), pue=2 * 1.56, price=3.0))
    assert dear.watt_hours == pytest.approx(2 * fast.watt_hours)
    assert dear.money == pytest.approx(3.0 * gpus * dear.hours)
    assert fast.watt_hours == pytest.approx(700 * gpus * 1.56 * fast.hours)
    assert 0 < fast.efficiency < 1


def test_carbon_is_that_of_the_country():
    world, france = (work_of("gpt-350m", f'cost.country="{place}"') for place in ("", "FRA"))
    plans = [plan(work, 8, H100) for work in (world, france)]
    grams = [one.co2_grams / one.watt_hours for one in plans]
    assert grams[0] == pytest.approx(0.475)  # codecarbon's mean of the world
    assert 0.02 < grams[1] < 0.1


def test_a_plan_says_what_to_set_and_how_to_start():
    work = work_of("llama-7b")
    found = plan(work, 16, H100)
    text = told(found)
    assert "torchrun --nnodes 2 --nproc-per-node 8 -m regard train llama-7b" in text
    for setting in recipe_settings(work.recipe, found.layout):
        assert f"--set {setting}" in text
    facts = json.loads(json.dumps(as_facts(found)))
    assert facts["gpus"] == 16
    assert facts["memory"]["total"] == found.memory.total
    lines = table([found, RegardError("too little")], [16, 32])
    assert "32: too little" in lines


@pytest.mark.parametrize(
    ("changes", "gpus", "gpu", "says"),
    [
        ([], 0, "h100", "--gpus is 1 or more, not 0"),
        ([], 1, "h100", "does not fit on 1 x h100 of 80 GB: the least is .* GB each .*; 4 would do"),
        (
            ["training.batch_tokens=8192"],
            64,
            "h100",
            "holds 2 texts, too few for 64 GPUs.*training.batch_tokens 262,144",
        ),
    ],
)
def test_what_cannot_be_planned_is_told(changes, gpus, gpu, says):
    with pytest.raises(RegardError, match=says):
        plan(work_of("llama-7b", *changes), gpus, Place(device_of(gpu)))


def test_an_unknown_gpu_is_told_with_the_nearest():
    assert device_of("H100") is device_of("h100")
    with pytest.raises(RegardError, match="no GPU 'h10'; did you mean h100"):
        device_of("h10")
    assert all(0 < one.fp32 <= one.bf16 and one.source for one in GPUS.values())


@pytest.mark.parametrize("field", ["training.optimizer='muon'"])
def test_muon_keeps_matrices_whole(field):
    work = work_of("gpt-350m", field)
    assert {(one.shard, one.tensor) for one in layouts(work, 8, H100)} == {(False, 1)}


def test_lengths_are_given_assumed_or_of_the_data(tmp_path):
    recipe = load_recipe("transformer-base")
    assert workload_of(recipe).length == 32
    given = workload_of(recipe, length=20, tokens=1_000_000)
    assert (given.length, given.passes) == (20, given.trained_tokens / 1e6)
    with pytest.raises(RegardError, match="above 0"):
        workload_of(recipe, length=0)
    recipe, work = _pairs(tmp_path)
    assert "of the data" in work.note
    assert work.parameters == _trained(recipe, tmp_path / "one").model.count_parameters()


@pytest.mark.slow
def test_the_tables_of_the_docs_are_what_their_commands_print():
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    found = re.findall(r"```sh\nregard (plan [^\n]*)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(found) >= 8
    # One process for all of them, without the checks of shapes, which make a small object slow to make.
    each = "import sys; from regard.cli import app; [app(line.split(), standalone_mode=False) for line in sys.argv[1:]]"
    commands = [command for command, _ in found]
    ended = subprocess.run([sys.executable, "-c", each, *commands], capture_output=True, text=True, check=True)
    assert ended.stdout == "".join(printed for _, printed in found)


@pytest.mark.parametrize(
    ("name", "gpus", "hours"),
    [("llama-7b", 256, 184_320), ("llama-70b", 1024, 1_720_320)],  # Touvron et al. 2023, "Llama 2", table 2: A100s
)
def test_a_plan_is_near_what_is_published(name, gpus, hours):
    work = work_of(name)
    found = plan(work, gpus, Place(device_of("a100")))
    predicted = found.hours * gpus * 2e12 / work.trained_tokens  # of 2 trillion tokens
    assert 1 / 1.5 < predicted / hours < 1.5


# --- against a real run -----------------------------------------------------------------------------------------------


def test_a_plan_is_near_what_a_run_takes(tmp_path, monkeypatch):
    """Operations within a tenth, time and memory within a factor of three; in processor time: the machine is shared."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    recipe, work = _pairs(tmp_path)
    predicted = _counted(work, Layout(), Place(this_machine(), 1))
    run = _trained(recipe, tmp_path / "run")
    assert work.flops == pytest.approx(run.flops, rel=0.1)
    assert 1 / 3 < run.seconds / predicted.duration.total < 3
    assert 1 / 3 < run.kept / (predicted.memory.activations + predicted.memory.logits) < 3


class _Run:
    """Of one step of a real run, the median."""

    def __init__(self, model, steps, kept):
        self.model, self.kept = model, kept
        pairs = list(pairwise(steps))
        self.seconds = sorted(later.seconds - earlier.seconds for earlier, later in pairs)[len(pairs) // 2]
        self.flops = sorted(step.flops for step in steps)[len(steps) // 2]


def _pairs(folder):
    generator = torch.Generator().manual_seed(1)
    for part, count in (("train", 1500), ("valid", 4), ("test", 4)):
        rows = []
        for _ in range(count):
            lengths = torch.randint(4, 14, (2,), generator=generator).tolist()
            words = [torch.randint(1000, (length,), generator=generator).tolist() for length in lengths]
            rows.append("\t".join(" ".join(f"w{word}" for word in side) for side in words))
        (folder / f"{part}.tsv").write_text("source\ttarget\n" + "\n".join(rows) + "\n", encoding="utf-8")
    text = f"""
        name = "mine"
        [data]
        train = "{folder}/train.tsv"
        valid = "{folder}/valid.tsv"
        test = "{folder}/test.tsv"
        [tokenizer]
        vocab_size = 1200
        [model]
        d_model = 128
        ffn_dim = 512
        encoder_layers = 2
        decoder_layers = 2
        attention_heads = 4
        [training]
        batch_tokens = 2048
        max_steps = 5
        validate_every = 5
        [cost]
        energy = false
        [score]
        valid_examples = 1
        test_examples = 1
        beams = 1
    """
    recipe = parse_recipe(text, "test", [])
    return recipe, workload_of(recipe)


def _trained(recipe, folder):
    from regard.training.tasks import task_of

    steps = [event for event in train(recipe, folder) if type(event).__name__ == "Stepped"]
    task = task_of(recipe)
    model = task.make_model().train()
    batch = task.train.batch(task.train.plan(recipe.training.batch_tokens, 1, 0)[0])
    found: dict[int, int] = {}

    def keep(tensor):
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = task.loss(model, batch, 0.1)
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    assert math.isclose(training_flops(model.config, batch), steps[0].flops, rel_tol=0.2)
    return _Run(model, steps, sum(size for place, size in found.items() if place not in own))
