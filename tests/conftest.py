"""Shapes in signatures are checked at run time; hypothesis has no clock; nothing is fetched."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from jaxtyping import install_import_hook

# Before anything of the package is imported: every annotated function then checks the shapes it gets and gives.
install_import_hook("regard", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import pytest
import torch
from hypothesis import settings

settings.register_profile("regard", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("regard")
torch.set_num_threads(1)  # tiny tensors: a second thread only waits, the longer the busier the machine


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
