"""No silent CPU: a GPU that cannot be used is said, in place of a hello."""

import json
import subprocess
import sys

import pytest
import torch

from spotreel_wan import device
from spotreel_wan.contract import EXIT_DEVICE, Refusal


def a_machine_with(tmp_path, monkeypatch, *, vendor, kind):
    slot = tmp_path / "0000:00:1e.0"
    slot.mkdir()
    (slot / "vendor").write_text(f"{vendor}\n")
    (slot / "class").write_text(f"{kind}\n")
    monkeypatch.setattr(device, "PCI", tmp_path)


@pytest.mark.parametrize("kind", ["0x030000", "0x030200"], ids=["a display", "none"])
def test_a_machine_with_a_gpu_that_cannot_be_opened_says_so(tmp_path, monkeypatch, kind):
    a_machine_with(tmp_path, monkeypatch, vendor="0x10de", kind=kind)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def init():
        raise RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized\nmore")

    monkeypatch.setattr(torch.cuda, "init", init)
    for wanted in ("auto", "cuda"):
        with pytest.raises(Refusal, match="Error 802: system not yet initialized; --device cpu") as refused:
            device.open_device(wanted)
        assert (refused.value.kind, refused.value.restart) == ("device", True)
    assert device.open_device("cpu").name == "cpu"


@pytest.mark.parametrize(
    ("vendor", "kind"), [("0x1d0f", "0x030000"), ("0x10de", "0x0c0330")], ids=["another's", "its USB controller"]
)
def test_a_machine_without_a_gpu_renders_on_its_cpu(tmp_path, monkeypatch, vendor, kind):
    a_machine_with(tmp_path, monkeypatch, vendor=vendor, kind=kind)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.open_device("auto").name == "cpu"
    monkeypatch.setattr(device, "PCI", tmp_path / "gone")
    assert device.open_device("auto").name == "cpu"


def test_host_memory_is_what_the_container_is_given(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(device, "CGROUP_LIMITS", (limit, tmp_path / "gone"))
    whole = device.host_memory()
    assert whole > 1 << 28
    limit.write_text("max\n")
    assert device.host_memory() == whole
    limit.write_text(f"{1 << 28}\n")
    assert device.host_memory() == 1 << 28


def test_a_gpu_that_computes_wrongly_is_no_gpu(monkeypatch):
    device.check(torch.device("cpu"))
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda ones, _: ones * 63)
    with pytest.raises(Refusal) as refused:
        device.check(torch.device("cpu"))
    assert (refused.value.kind, refused.value.code) == ("device", "computes_wrongly")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_program_says_it_in_place_of_a_hello_and_ends():
    command = [sys.executable, "-m", "spotreel_wan", "--stdio", "--device", "cuda", "--threads", "1"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert ended.returncode == EXIT_DEVICE
    (line,) = ended.stdout.splitlines()
    said = json.loads(line)
    assert (said["type"], said["id"], said["kind"], said["code"]) == ("error", None, "device", "unusable")
    assert said["message"].startswith("the GPU cannot be opened: ")
