"""Text becomes the ids that tokenizer.json says, whatever class the configuration names."""

import json
import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from conftest import TINY
from engine import request
from spotreel_wan import check_tokenizer
from spotreel_wan.models import NEGATIVE_PROMPT, TEXT_TOKENS
from spotreel_wan.tokenizer import FileTokenizer
from test_packs import load, reseal
from test_resume import render

EXTRA = [f"<extra_id_{number}>" for number in range(300)]
# As in the folders that were published, such as google/umt5-xxl.
PUBLISHED = {
    "additional_special_tokens": EXTRA,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": True,
    "eos_token": "</s>",
    "extra_ids": 300,
    "model_max_length": 1000000000000000019884624838656,
    "pad_token": "<pad>",
    "sp_model_kwargs": {},
    "spaces_between_special_tokens": False,
    "tokenizer_class": "T5Tokenizer",
    "unk_token": "<unk>",
}
FIXED = (
    "a red fox in the snow",
    "a red fox 🦊 in the snow",
    "狐狸，雪",
    "a ｆｏｘ　①",
    "fox\u200d!",
    "",
    " ",
    "a</s>b",
)


def publish(directory):
    """umT5's layout with a small vocabulary: <pad>, </s>, <s>, <unk> are 0 to 3, unknown bytes are tokens."""
    pieces = [(token, 0.0) for token in ("<pad>", "</s>", "<s>", "<unk>")]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(word, -3.0) for word in ("▁a", "▁red", "▁fox", "▁in", "▁the", "▁snow")]
    pieces += [(character, -5.0) for character in "▁abcdefghijklmnopqrstuvwxyz,.狐狸"]
    core = Tokenizer(models.Unigram(pieces, unk_id=3))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    core.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>", *reversed(EXTRA)])
    # As a tokenizer is saved that was used before.
    core.enable_truncation(8)
    core.enable_padding(length=8)
    core.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(PUBLISHED))
    tokens = {name: PUBLISHED[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    (directory / "special_tokens_map.json").write_text(json.dumps(tokens | {"additional_special_tokens": EXTRA}))


def prompts(count):
    rng = random.Random(0)
    alphabets = (
        "abcdefgh ,.",
        "狐狸雪山水，。！",
        "🦊🎬👩‍👩‍👧é",
        "ＡＢｃ１２　①㎏ﬁ",
        "кот и пёс",
        "\u200b\u200d\ufeff",
    )
    for number in range(count):
        letters = alphabets[number % len(alphabets)] + rng.choice(alphabets)
        yield "".join(rng.choices(letters, k=rng.randint(1, 60)))


def test_hundreds_of_prompts_get_the_ids_of_the_file(tmp_path):
    publish(tmp_path)
    ours, file = FileTokenizer(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    file.no_truncation()
    file.no_padding()
    for text in (*FIXED, NEGATIVE_PROMPT, *prompts(600)):
        wanted = file.encode(text).ids
        assert ours.ids(text) == wanted, text
        both = ours([text, "a"], padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt")
        padding = TEXT_TOKENS - len(wanted)
        assert both.input_ids[0].tolist() == wanted + [0] * padding, text
        assert both.attention_mask[0].tolist() == [1] * len(wanted) + [0] * padding, text
    assert ours.ids("a red fox 🦊")[-2:] == [3, 1], "unknown, end"
    assert ours.ids("ｆｏｘ") == ours.ids("fox")


def test_a_text_is_never_cut(tmp_path):
    publish(tmp_path)
    with pytest.raises(ValueError, match="more than 5 tokens"):
        FileTokenizer(tmp_path)(["a red fox in the snow"], max_length=5)


def test_a_pack_with_the_published_configuration_renders_what_its_file_says(one_pack, tmp_path):
    asked = {"prompt": "ａ ｒｅｄ fox, ①狐 ~", "steps": 2}
    own = render(TINY, request(tmp_path / "own", "t2v-A14B", **asked))
    (one_pack / "t2v-A14B" / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(PUBLISHED))
    reseal(one_pack / "t2v-A14B")
    published = render(one_pack, request(tmp_path / "published", "t2v-A14B", **asked))
    assert published[-1]["meta"]["prompt_tokens"] == own[-1]["meta"]["prompt_tokens"]
    assert published[-1]["sha256"] == own[-1]["sha256"]


@pytest.mark.parametrize(
    "change",
    [
        {"pad_token": "<nothing>"},
        {"pad_token": None},
        {"eos_token": "<pad>"},
    ],
)
def test_a_configuration_that_does_not_fit_its_file_is_refused(one_pack, change):
    config = one_pack / "t2v-A14B" / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    reseal(one_pack / "t2v-A14B")
    assert load(one_pack)["code"] == "bad_tokenizer"


def test_the_check_compares_what_a_render_would_have_with_the_file(tmp_path, capsys, monkeypatch):
    (tmp_path / "tokenizer").mkdir()
    publish(tmp_path / "tokenizer")
    assert check_tokenizer.check(tmp_path) == 0
    assert json.loads(capsys.readouterr().out) == {"compared": 418, "differ": [], "differing": 0}
    # An engine that reads the file in another way, as transformers does by the class that the configuration names.
    ids = FileTokenizer.ids
    monkeypatch.setattr(FileTokenizer, "ids", lambda self, text: [2 if one == 3 else one for one in ids(self, text)])
    assert check_tokenizer.check(tmp_path) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["differing"] > 100 and all(2 in other["loaded"] for other in told["differ"])
