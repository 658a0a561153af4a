"""Tests run the engine on a CPU, on the tiny packs, in processes of their own."""

import json
import os
import shutil
import sys
from pathlib import Path

from spotreel_wan.__main__ import ENVIRONMENT

# The machine has other work as well.
os.environ.update(ENVIRONMENT, OMP_NUM_THREADS="1")

import pytest  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

TINY = Path(__file__).resolve().parent.parent / "packs" / "tiny"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def packs(tmp_path_factory):
    """The directory of tiny packs, by the number format that they count in."""
    found = {"bfloat16": TINY}
    other = tmp_path_factory.mktemp("packs-float32")
    shutil.copytree(TINY, other, dirs_exist_ok=True)
    for index in other.glob("*/pack.json"):
        index.write_text(json.dumps(json.loads(index.read_text()) | {"compute": "float32"}))
    found["float32"] = other
    return found


@pytest.fixture
def one_pack(tmp_path):
    """A copy of t2v-A14B's pack, to be broken."""
    shutil.copytree(TINY / "t2v-A14B", tmp_path / "packs" / "t2v-A14B")
    return tmp_path / "packs"
