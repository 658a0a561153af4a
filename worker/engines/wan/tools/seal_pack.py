"""Makes a directory in diffusers' layout a pack: writes its pack.json.

    python tools/seal_pack.py DIRECTORY --model t2v-A14B --source Wan-AI/Wan2.2-T2V-A14B-Diffusers --revision 5be7df9

Each part has to be one safetensors file. What is wrong with the directory is said as the engine would say it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spotreel_wan import weights  # noqa: E402
from spotreel_wan.contract import Refusal  # noqa: E402
from spotreel_wan.models import MODELS  # noqa: E402
from spotreel_wan.pack import COMPUTE, check_files, read_index, seal  # noqa: E402
from spotreel_wan.profile import PROFILES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", choices=list(MODELS), required=True)
    parser.add_argument("--source", required=True, help="where the weights are published")
    parser.add_argument("--revision", required=True, help="which commit of it")
    parser.add_argument("--license", default="Apache-2.0")
    parser.add_argument("--compute", choices=COMPUTE, default="bfloat16")
    options = parser.parse_args()
    model = MODELS[options.model]
    about = {
        "model": model.name,
        "compute": options.compute,
        "source": {"repository": options.source, "revision": options.revision},
        "license": options.license,
    }
    try:
        seal(options.directory, **about, profiles=list(PROFILES))
        pack = read_index(options.directory)
        check_files(pack, model)
        weights.blueprint(pack, model)
    except Refusal as refusal:
        (options.directory / "pack.json").unlink(missing_ok=True)
        raise SystemExit(f"{refusal.code}: {refusal.message}") from refusal
    print(f"{options.directory}: {read_index(options.directory).sha256}")


if __name__ == "__main__":
    main()
