"""Makes tiny tokenizers with the pipelines of published families below test/golden/tokenizers, and what Hugging Face encodes with them.

Run:  as make_tiny.py says, then v/bin/python test/golden/make_tokenizers.py
The vocabularies are trained on a few sentences; what is checked is how texts are normalised, cut and put together again.
"""

import json
import shutil

import tokenizers
from make_tiny import CORPUS, HERE, MAGIC, TEXTS, VERSION
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LETTERS_LOW = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LETTERS_UP = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
O200K = "|".join([
    rf"[^\r\n\p{{L}}\p{{N}}]?{LETTERS_UP}*{LETTERS_LOW}+{SUFFIX}?",
    rf"[^\r\n\p{{L}}\p{{N}}]?{LETTERS_UP}+{LETTERS_LOW}*{SUFFIX}?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", SPACES,
])
PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
DEEPSEEK = rf"{PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}"
bytes_only = lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
KINDS = {
    "qwen3": dict(normalizer=normalizers.NFC(), pre=[split(QWEN), bytes_only()], special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    "olmoe": dict(normalizer=normalizers.NFC(), pre=[pre_tokenizers.ByteLevel(add_prefix_space=False)], special=["|||IP_ADDRESS|||", "<|padding|>", "<|endoftext|>"]),
    "gpt-oss": dict(normalizer=None, pre=[split(O200K), bytes_only()], special=["<|endoftext|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"]),
    "deepseek": dict(
        normalizer=None, pre=[split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), bytes_only()],
        special=["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    ),
}
MORE = ["HTTPServer's 12345 apples, 3.14159!", "foo_bar(baz);//x\n\n  y", "ÀÉ e\u0301 ﬁ Ⅳ ½ ٣٤", "  leading\n \n trailing  ", "日本語テスト、漢字123かな", "I'LL we'Ve DON'T"]


def make(name, kind):
    tok = Tokenizer(models.BPE(ignore_merges=name == "gpt-oss"))
    if kind["normalizer"]:
        tok.normalizer = kind["normalizer"]
    tok.pre_tokenizer = pre_tokenizers.Sequence(kind["pre"])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=kind["special"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(CORPUS + MORE, trainer)
    folder = HERE / "tokenizers" / name
    shutil.rmtree(folder, ignore_errors=True)
    PreTrainedTokenizerFast(tokenizer_object=tok, eos_token=kind["special"][-1], clean_up_tokenization_spaces=False).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(dict(vocab_size=tok.get_vocab_size())) + "\n")
    texts = [dict(text=t, ids=tok.encode(t, add_special_tokens=False).ids) for t in [*TEXTS, *MORE, *CORPUS, "a".join(kind["special"])]]
    header = dict(magic=MAGIC, version=VERSION, remake="python3 test/golden/make_tokenizers.py", tokenizers=tokenizers.__version__)
    (folder / "golden.json").write_text(json.dumps({**header, "texts": texts}, ensure_ascii=True) + "\n")


for name, kind in KINDS.items():
    make(name, kind)
