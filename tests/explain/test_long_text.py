"""A map of a long text is answered in a small part of the memory that the map has."""

import subprocess
import sys
from pathlib import Path

import pytest

LENGTH = 8192
MEASURED = f"""
import re
from pathlib import Path

import torch

from regard import Sequences, Trace
from regard.models.gpt import GPT, GPTConfig


def resident(kind):
    return int(re.search(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


torch.set_num_threads(1)
config = GPTConfig(vocab_size=100, n_positions={LENGTH}, n_embd=32, n_layer=3, n_head=2, normalize_before=True)
model = GPT(config).eval()
Trace(model, Sequences.of([torch.randint(100, (300,))])).map(1, 1)
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
found = Trace(model, Sequences.of([torch.randint(100, ({LENGTH},))])).map(1, 1)
assert found.largest.shape == (256, 256)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peaks of memory as Linux tells them")
def test_neither_the_run_nor_the_map_holds_a_matrix_of_all_pairs():
    told = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    whole_map = LENGTH**2 * 4 / 2**20  # MiB
    assert float(told.stdout) < 0.75 * whole_map
