"""Makes torch from PyPI load on a machine without a GPU and without 2.5 GB of CUDA libraries.

PyPI has no torch for CPUs alone (x86-64), and the one it has refuses to load when a CUDA library is missing, although
nothing on a CPU ever calls one. This writes libraries with the same names, the same symbols and nothing behind them
beside torch's own. libcudart and libcupti are called while torch loads, so they are the real ones (14 MB).

For tests. Run it with the Python of the environment that holds torch; needs gcc and nm.
"""

import importlib.util
import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

# Called at import, so installed for real; the driver's library is opened by name, and only where there is a GPU.
REAL = re.compile(r"libcudart\.|libcupti\.|libcuda\.so")
FROM_NVIDIA = re.compile(r"lib(cu|nccl|nvrtc|nvshmem)")


def lines(*command: str | Path) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def symbols(library: Path, which: str) -> set[str]:
    return {line.split()[-1] for line in lines("nm", "-D", which, library)}


def wanted(folder: Path) -> dict[str, dict[str, set[str]]]:
    """For each missing library, the symbols by version; those without a version may lie in any of them."""
    missing: set[str] = set()
    owner: dict[str, str] = {}
    undefined: set[str] = set()
    defined: set[str] = set()
    for library in folder.glob("*.so*"):
        source = ""
        for line in lines("objdump", "-p", library):
            if found := re.match(r"\s+NEEDED\s+(\S+)", line):
                missing.add(found[1])
            elif found := re.match(r"\s+required from (\S+):", line):
                source = found[1]
            elif found := re.match(r"\s+0x[0-9a-f]+ 0x[0-9a-f]+ \d+ (\S+)", line):
                owner[found[1]] = source
        undefined |= symbols(library, "--undefined-only")
        defined |= {name.split("@")[0] for name in symbols(library, "--defined-only")}
    names = sorted(n for n in missing if FROM_NVIDIA.match(n) and not REAL.match(n) and not (folder / n).exists())
    found_in: dict[str, dict[str, set[str]]] = {name: defaultdict(set) for name in names}
    for symbol in undefined:
        name, _, version = symbol.partition("@")
        version = version.lstrip("@")
        if version and owner.get(version) in found_in:
            found_in[owner[version]][version].add(name)
        elif not version and name not in defined and not name.startswith("_"):
            found_in[names[0]][""].add(name)
    return found_in


def build(target: Path, by_version: dict[str, set[str]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch, "empty.c"), Path(scratch, "versions")
        names = sorted(set().union(*by_version.values()) if by_version else ())
        source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
        versions = (f"{v} {{ global: {' '.join(f'{n};' for n in sorted(by_version[v]))} }};\n" for v in by_version if v)
        script.write_text("".join(versions))
        flags = ["-shared", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{target.name}"]
        if script.stat().st_size:
            flags.append(f"-Wl,--version-script={script}")
        subprocess.run(["gcc", *flags, "-o", target, source], check=True)


def main() -> None:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("torch is not installed here")
    folder = Path(spec.origin).parent / "lib"
    for name, by_version in wanted(folder).items():
        build(folder / name, by_version)
        print(f"stand-in: {name}")


if __name__ == "__main__":
    main()
