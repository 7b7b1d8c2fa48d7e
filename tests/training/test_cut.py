"""A model cut over processes learns what the whole one learns: losses, gradients and weights to rounding."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAYOUTS = {
    "sharded over 2": "2/shard/1/transformer,t5,gpt,llama,bert,albert,seq2seq,rnnsearch,awd_lstm",
    "layers together over 2": "2/whole/2/transformer,t5,gpt,llama,bert,albert",
    "both over 4": "4/shard/2/transformer,llama",
    "2 shares of 2 together": "4/whole/2/gpt",
    "sharded over 3": "3/shard/1/bert",
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    place = tmp_path_factory.mktemp("cut")
    program = Path(__file__).with_name("cut_models.py")
    command = [sys.executable, str(program), str(place), *LAYOUTS.values()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return {name: json.loads((place / f"{number}.json").read_text()) for number, name in enumerate(LAYOUTS)}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_family_learns_what_the_whole_model_does(compared, layout):
    rows = compared[layout]
    assert ",".join(rows) == LAYOUTS[layout].split("/")[-1]
    for family, row in rows.items():
        assert row["ours"] == pytest.approx(row["theirs"], rel=2e-6), family  # losses and norms of gradients, in turn
        assert row["furthest"] < 2e-6, family


@pytest.mark.slow
def test_a_process_holds_its_part_only(compared):
    for row in compared["sharded over 2"].values():
        assert row["share"] == pytest.approx(1 / 2, abs=0.02)
    assert compared["both over 4"]["transformer"]["share"] == pytest.approx(1 / 4, abs=0.04)
    for row in compared["layers together over 2"].values():  # embeddings and norms are whole
        assert row["share"] < 0.9
