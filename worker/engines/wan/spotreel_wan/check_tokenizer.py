"""Whether a pack's tokenizer, loaded as for a render, gives the ids of its file: `spotreel models verify`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from .models import NEGATIVE_PROMPT, TEXT_TOKENS
from .tokenizer import load

FIXED = (
    "a red fox in the snow",
    "A cinematic shot: 35mm, f/1.8 -- rain, neon & fog (slow dolly-in).",
    "a red fox 🦊 in the snow",
    "👩‍👩‍👧 🏳️‍🌈 ☔️ 1️⃣",
    "一只红狐狸在雪地里奔跑，镜头缓缓推进。",
    "狐狸，雪！（夜晚）“静”《山》",
    "ＡＢｃ　１２３，．！？（）",
    "㎏ ﬁ ① ² ½ …",
    "кот и пёс",
    "قطة حمراء",
    "猫が走る。ｶﾞｷﾞ",
    "fox\u200d! \u200bzero\ufeff width",
    "  two  spaces\tand\na line ",
    "a</s>b<pad><extra_id_0>",
    "e\u0301 \u00e9",
    "",
    " ",
)
ALPHABETS = (
    "abcdefgh ,.-'\"",
    "狐狸雪山水风夜光人走，。！？、",
    "🦊🎬👩‍👩‍👧é☀️",
    "ＡＢｃ１２　①㎏ﬁ：；（）",
    "кот и пёс",
    "\u200b\u200d\ufeff\u00a0 ",
)
RANDOM = 400
SEED = 1


def prompts() -> Iterator[str]:
    yield from (*FIXED, NEGATIVE_PROMPT)
    rng = random.Random(SEED)
    for number in range(RANDOM):
        letters = ALPHABETS[number % len(ALPHABETS)] + rng.choice(ALPHABETS)
        yield "".join(rng.choices(letters, k=rng.randint(1, 120)))


def check(directory: Path) -> int:
    """Prints one JSON document; gives the status that the program ends with."""
    core = Tokenizer.from_file(str(directory / "tokenizer" / "tokenizer.json"))
    core.no_truncation()
    core.no_padding()
    loaded = load(directory)
    compared, differ = 0, []
    for text in prompts():
        wanted = core.encode(text).ids
        if len(wanted) > TEXT_TOKENS:
            continue
        both = loaded([text], padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt")
        found = both.input_ids[0][both.attention_mask[0].bool()].tolist()
        compared += 1
        if found != wanted:
            differ.append({"text": text, "file": wanted, "loaded": found})
    print(json.dumps({"compared": compared, "differ": differ[:3], "differing": len(differ)}, ensure_ascii=False))
    return 1 if differ else 0
