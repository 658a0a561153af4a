"""Makes the tiny packs: the three models with random weights in the real directory layout, for tests without a GPU.

    python tools/make_tiny_packs.py [DIRECTORY]     default: packs/tiny beside this folder

The same versions of torch, diffusers and transformers make the same bytes; a test compares.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
from diffusers import WanTransformer3DModel as Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

from spotreel_wan.models import MODELS, Model  # noqa: E402
from spotreel_wan.pack import seal  # noqa: E402
from spotreel_wan.profile import PROFILES  # noqa: E402

TEXT_WIDTH = 32
WORDS = ["▁a", "▁the", "▁in", "▁at", "▁of", "ing", "er", "ch", "th", "ou", "ight"]
CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'-(){}@#"
# Likelihoods in the Unigram model; only their order matters. Trained ones would differ from run to run.
SPECIAL, WORD, CHARACTER = 0.0, -3.0, -5.0
VOCABULARY = (
    [(token, SPECIAL) for token in ("<pad>", "</s>", "<unk>")]
    + [(word, WORD) for word in WORDS]
    + [(character, CHARACTER) for character in CHARACTERS]
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Ids of the special tokens as umT5 has them."""
    core = Tokenizer(models.Unigram(VOCABULARY, unk_id=2))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=len(VOCABULARY), d_model=TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    encoder = UMT5EncoderModel(config)
    with torch.no_grad():
        # Fresh embeddings are so alike that any two prompts would give one video.
        encoder.shared.weight.normal_()
    return encoder


def transformer(model: Model) -> Transformer:
    return Transformer(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=model.in_channels,
        out_channels=model.latent_channels,
        text_dim=TEXT_WIDTH,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )


def vae(model: Model) -> AutoencoderKLWan:
    shape = {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
    if model.name != "ti2v-5B":
        return AutoencoderKLWan(z_dim=model.latent_channels, **shape)
    return AutoencoderKLWan(
        z_dim=model.latent_channels,
        latents_mean=[0.01 * channel - 0.2 for channel in range(48)],
        latents_std=[0.5 + 0.01 * channel for channel in range(48)],
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        **shape,
    )


# What lightx2v's files call the layers of a block, and what diffusers calls them.
LAYERS = {
    **{f"self_attn.{theirs}": f"attn1.{ours}" for theirs, ours in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"))},
    **{f"cross_attn.{theirs}": f"attn2.{ours}" for theirs, ours in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"))},
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
RANK, ALPHA = 2, 1.0
MADE_HERE = {"made_by": "worker/engines/wan/tools/make_tiny_packs.py", "seed": 0}


def lora(expert: Transformer, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, block in enumerate(expert.blocks):
        for theirs, ours in LAYERS.items():
            rows, columns = block.get_submodule(ours).weight.shape
            name = f"diffusion_model.blocks.{number}.{theirs}"
            found[f"{name}.lora_down.weight"] = torch.randn(RANK, columns, generator=generator).bfloat16()
            found[f"{name}.lora_up.weight"] = (torch.randn(rows, RANK, generator=generator) / 4).bfloat16()
            found[f"{name}.alpha"] = torch.tensor(ALPHA)
    return found


def add_loras(parts: dict[str, object], experts: tuple[str, ...], directory: Path) -> dict[str, object]:
    """What the index says of them."""
    (directory / "lora").mkdir()
    loras = {}
    for seed, (expert, noise) in enumerate(zip(experts, ("high", "low"))):
        loras[expert] = f"lora/{noise}.safetensors"
        safetensors.torch.save_file(lora(parts[expert], seed), directory / loras[expert])
    return {"loras": loras, "source": MADE_HERE, "license": "Apache-2.0"}


def make_pack(model: Model, directory: Path) -> None:
    torch.manual_seed(0)
    parts = {
        "tokenizer": tokenizer(),
        "text_encoder": text_encoder().eval(),
        "vae": vae(model).eval(),
        # As diffusers' conversion leaves it: 3.0 is not what any of the models is meant to run with.
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    }
    for expert in model.experts:
        parts[expert] = transformer(model).eval()
    if model.name == "i2v-A14B":
        pipeline = WanImageToVideoPipeline(**parts, boundary_ratio=model.boundary)
    else:
        pipeline = WanPipeline(**parts, boundary_ratio=model.boundary, expand_timesteps=model.name == "ti2v-5B")
    shutil.rmtree(directory, ignore_errors=True)
    pipeline.save_pretrained(directory)
    seal(
        directory,
        model=model.name,
        compute="bfloat16",
        source=MADE_HERE,
        license="Apache-2.0",
        profiles=list(PROFILES),
        fast=None if model.boundary is None else add_loras(parts, model.experts, directory),
    )


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "packs" / "tiny"
    for model in MODELS.values():
        make_pack(model, target / model.name)
        print(model.name, sum(f.stat().st_size for f in (target / model.name).rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
