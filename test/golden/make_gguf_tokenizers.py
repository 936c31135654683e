"""Makes test/golden/gguf-tokenizers.json: what GGUF metadata says of tokenizers, and the ids that the originals give.

Run:  python3 -m venv v && v/bin/pip install tokenizers sentencepiece && v/bin/python test/golden/make_gguf_tokenizers.py
`spm` is a small SentencePiece model of the kind of Llama 2 and Mixtral, encoded by SentencePiece itself. `pre` has the vocabulary of
test/golden/tiny-f32 behind the pre-tokenizers that published tokenizer.json files have, by llama.cpp's names, encoded by the library
that they were written for.
"""

import io
import json
from importlib.metadata import version
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer

HERE = Path(__file__).parent
TEXTS = [
    "", " ", "Hello, world!", "  two  spaces and\ttabs\r\n\r\n lines ", "1234567890 12 3.14", "naïve café – œuvre", "日本語と中文, ひらがな",
    "👩‍👩‍👧‍👦 family 🙂", "a\u0301 combining", "don't we'll I'M THEY'VE HTTPServer camelCase", "x" * 40, "def f(a, b):\n    return a + b\n",
    "path/to/file.txt //// --- !!!", "\n\n\n", "été's ÉTÉ'S", "ﬁne ½ Ⅳ",
]
CORPUS = [
    "The router sends every token to two experts, and the experts answer with a row of numbers.",
    "A worker that no longer hosts an expert says so, and the caller asks another one.",
    "def add(left, right): return left + right",
    "Whisk the eggs with the sugar, then fold in the flour and bake for 25 minutes.",
    "The party of the first part shall notify the other party in writing within 30 days.",
]


def spm():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 8), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True, character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(sp.get_piece_size())
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
    return dict(
        tokens=[sp.id_to_piece(i) for i in ids], scores=[sp.get_score(i) for i in ids], types=[kind(i) for i in ids],
        texts=[dict(text=t, ids=sp.encode(t)) for t in TEXTS + CORPUS],
    )


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# Code points, and from-to of them.
LETTERS = "".join("-".join(chr(int(each, 16)) for each in span.split("-")) for span in """
41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556
10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b
1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115
2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d
a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2
10cc0-10cf2 118a0-118df 1e900-1e943""".split())
PRE = {
    "deepseek-llm": (None, [*map(split, [
        "[\r\n]", r"\s?[" + LETTERS + "]+", "\\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"]), {"type": "Digits", "individual_digits": True}, BYTES]),
    "gpt-2": (None, {**BYTES, "use_regex": True}),
    "olmo": ({"type": "NFC"}, {**BYTES, "use_regex": True}),
    "qwen2": ({"type": "NFC"}, [split(ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST), BYTES]),
    "llama-bpe": (None, [split(ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST), BYTES]),
    "gpt-4o": (None, [split(
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDINGS}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"), BYTES]),
    "deepseek-v3": (None, [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), BYTES]),
}


def pre():
    out = {}
    for name, (normalizer, steps) in PRE.items():
        spec = json.loads((HERE / "tiny-f32" / "tokenizer.json").read_text())
        spec["normalizer"] = normalizer
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps} if isinstance(steps, list) else steps
        tokenizer = Tokenizer.from_str(json.dumps(spec))
        # What the vocabulary merges says little of where a text is cut, so the cuts are kept too.
        cut = lambda t: [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(t) if normalizer else t)]
        out[name] = [dict(text=t, ids=tokenizer.encode(t, add_special_tokens=False).ids, pieces=cut(t)) for t in TEXTS]
    return out


def main():
    header = dict(magic="enodia-golden", version=1, remake="python3 test/golden/make_gguf_tokenizers.py", tokenizers=version("tokenizers"),
                  sentencepiece=version("sentencepiece"))
    (HERE / "gguf-tokenizers.json").write_text(json.dumps({**header, "spm": spm(), "pre": pre()}) + "\n")


if __name__ == "__main__":
    main()
