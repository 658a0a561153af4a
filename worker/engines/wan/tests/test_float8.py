"""Experts in float8: what it costs, that it is loaded tensor by tensor, and what of an expert it leaves alone."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from conftest import TINY
from spotreel_wan import float8, lora
from spotreel_wan.device import Device
from spotreel_wan.models import MODELS
from spotreel_wan.pack import open_pack
from spotreel_wan.weights import blueprint, weight_path

MODEL, EXPERT = "t2v-A14B", "transformer"


def error(weight, kept):
    return ((weight - kept).norm() / weight.norm()).item()


def unpacked(packed, scale):
    return packed.float() * scale


@pytest.mark.parametrize("deviation", [0.005, 0.02, 0.05])
def test_the_error_of_weights_is_that_of_three_bits_whatever_their_size(deviation):
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).mul(deviation).bfloat16().float()
    packed, scale = float8.pack(weight)
    assert error(weight, unpacked(packed, scale)) < 0.027
    # As bfloat16 counts it, nothing more is lost.
    assert torch.equal((packed.bfloat16() * scale.bfloat16()).float(), unpacked(packed, scale))
    plain = weight.to(float8.FORMAT).float()
    assert error(weight, plain) > error(weight, unpacked(packed, scale))


def test_the_plain_cast_loses_more_of_weights_as_they_are():
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)) * 0.02
    assert error(weight, weight.to(float8.FORMAT).float()) > 0.032


def test_rows_of_zeros_stay_and_what_is_not_finite_is_found():
    weight = torch.zeros(3, 4)
    weight[1, 2] = 500.0
    packed, scale = float8.pack(weight)
    assert torch.equal(unpacked(packed, scale), weight.where(weight == 0, torch.tensor(512.0)))
    weight[2, 0] = float("nan")
    assert unpacked(*float8.pack(weight)).isnan().any()


@pytest.fixture(scope="module")
def plan():
    pack = open_pack(TINY, MODELS[MODEL])
    return pack, blueprint(pack, MODELS[MODEL])


def test_an_expert_is_what_diffusers_loads_but_for_its_linear_layers(plan):
    pack, made = plan
    whole = WanTransformer3DModel.from_pretrained(pack.dir / EXPERT, dtype=made.dtype)
    adapter = lora.Adapter("", 0.5, pack.dir / "lora" / "high.safetensors")
    deltas = lora.read(made.parts[EXPERT], (adapter,))
    lora.merge(whole, deltas)
    device = Device(torch.device("cpu"), "cpu", None)
    part = float8.load(pack.dir / weight_path(EXPERT), made, EXPERT, device, deltas)
    layers = {name: layer for name, layer in part.named_modules() if isinstance(layer, float8.Linear)}
    assert {"blocks.0.attn1.to_q", "blocks.1.ffn.net.2", "proj_out"} < set(layers)
    assert not any("embedder" in name for name in layers)
    for name, weight in whole.state_dict().items():
        owner, _, kind = name.rpartition(".")
        if owner in layers and kind == "weight":
            packed, scale = float8.pack(weight)
            assert torch.equal(layers[owner].weight.float() * layers[owner].scale.float(), packed.float() * scale)
        else:
            found = part.get_parameter(name)
            assert found.dtype == weight.dtype
            assert torch.equal(found, weight)
    for name, table in whole.named_buffers():
        assert torch.equal(part.get_buffer(name), table)
    assert made.bytes(EXPERT, float8=True) == sum(
        weight.numel() * weight.element_size() for name, weight in part.named_parameters() if not name.endswith("scale")
    )


def test_it_is_never_whole_in_the_packs_own_format(plan, monkeypatch):
    """Neither on the host nor on the card: each tensor is rounded before the next one is read."""
    pack, made = plan
    alive = []
    get = float8.pack

    def counted(weight):
        alive.append(sum(weight.numel() for weight in alive_weights(made.dtype)))
        return get(weight)

    monkeypatch.setattr(float8, "pack", counted)
    device = Device(torch.device("cpu"), "cpu", None)
    part = float8.load(pack.dir / weight_path(EXPERT), made, EXPERT, device, {})
    linear = sum(layer.weight.numel() for layer in part.modules() if isinstance(layer, float8.Linear))
    assert max(alive) - min(alive) < linear / 2


def alive_weights(dtype):
    import gc

    matrices = (item for item in gc.get_objects() if isinstance(item, torch.Tensor))
    return [item for item in matrices if item.dtype == dtype and item.ndim == 2 and item.device.type == "cpu"]
