"""Makes the tiny packs: the three models with random weights in the real directory layout, for tests without a GPU.

    python tools/make_tiny_packs.py [DIRECTORY]     default: packs/tiny beside this folder

The same versions of torch, diffusers and transformers make the same bytes; a test compares.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
from diffusers import WanTransformer3DModel as Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

from spotreel_wan.models import MODELS, Model  # noqa: E402
from spotreel_wan.pack import seal  # noqa: E402

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
        source={"made_by": "worker/engines/wan/tools/make_tiny_packs.py", "seed": 0},
        license="Apache-2.0",
        profiles=[{"name": "resident", "from_bytes": 0}],
    )


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "packs" / "tiny"
    for model in MODELS.values():
        make_pack(model, target / model.name)
        print(model.name, sum(f.stat().st_size for f in (target / model.name).rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
