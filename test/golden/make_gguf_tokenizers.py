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
PRE = {
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
