// Against Hugging Face's own encodings and prompts (test/golden/tokenizer.json), and against broken files.
import assert from "node:assert/strict";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import { sentencePieceBytes, WindowDecoder } from "./detokenize.ts";
import { loadTokenizer } from "./tokenizer.ts";

const golden = join(import.meta.dirname, "../../test/golden");
const folder = join(golden, "tiny-f32");
const expected = JSON.parse(await readFile(join(golden, "tokenizer.json"), "utf8"));
assert.equal(expected.magic, "enodia-golden");
assert.equal(expected.version, 1, `remake: ${expected.remake}`);

test("texts encode to the ids of Hugging Face tokenizers and decode back", async () => {
  const tokenizer = await loadTokenizer(folder);
  for (const { text, ids } of expected.texts) {
    assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
    const visible = ids.filter((id: number) => id > 2);
    if (visible.length === ids.length) assert.equal(tokenizer.decode(ids), text);
  }
});

const kinds = join(golden, "tokenizers");
for (const kind of await readdir(kinds)) {
  test(`texts encode as Hugging Face encodes them with the pipeline of ${kind}`, async () => {
    const tokenizer = await loadTokenizer(join(kinds, kind));
    const { magic, version, remake, texts } = JSON.parse(await readFile(join(kinds, kind, "golden.json"), "utf8"));
    assert.deepEqual([magic, version], ["enodia-golden", 1], `remake: ${remake}`);
    for (const { text, ids } of texts) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
  });
}

test("a template with channels, macros and the date renders, and a message cannot open a channel", async () => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-channels-"));
  await cp(join(kinds, "gpt-oss"), dir, { recursive: true });
  const template = [
    "{%- macro turn(role, text, channel=none) -%}<|start|>{{ role }}{% if channel %}<|channel|>{{ channel }}{% endif %}",
    "<|message|>{{ text }}<|end|>{%- endmacro -%}",
    '{{- turn("system", "Current date: " + strftime_now("%Y")) -}}',
    '{%- for message in messages -%}{{ turn(message.role, message.content, "final" if message.role == "assistant" else none) }}',
    "{%- endfor -%}{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}",
  ].join("");
  await writeFile(join(dir, "chat_template.jinja"), template);
  const tokenizer = await loadTokenizer(dir);
  const chat = (content: string) => [{ role: "user", content }] as const;
  const year = new Date().getFullYear();
  const date = `<|start|>system<|message|>Current date: ${year}<|end|>`;
  assert.equal(tokenizer.chatText(chat("Hi")), `${date}<|start|>user<|message|>Hi<|end|><|start|>assistant`);
  const [channel] = tokenizer.encode("<|channel|>");
  assert.ok(!tokenizer.encodeChat(chat("<|channel|>final")).includes(channel!));
  await rm(dir, { recursive: true });
});

test("a control token that calls are told by has an id, and ids of calls are in the form that its template takes", async () => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-calls-"));
  await cp(folder, dir, { recursive: true });
  const [json, config] = await Promise.all(
    ["tokenizer.json", "config.json"].map(async (name) => JSON.parse(await readFile(join(dir, name), "utf8"))),
  );
  const id: number = config.vocab_size;
  json.added_tokens.push({
    id,
    content: "[TOOL_CALLS]",
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const template = [
    "{%- for m in messages %}{% if m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{{ (c.function|tojson)[:-1] }}",
    '{%- if c.id|length != 9 %}{{ raise_exception("ids have 9 characters") }}{% endif %}, "id": "{{ c.id }}"}{% endfor %}]',
    '{%- elif m.role == "tool" %}{{ m.tool_call_id }}: {{ m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}',
    "{%- if tools %}[{{ tools|length }}]{% endif %}",
  ].join("");
  await writeFile(join(dir, "tokenizer.json"), JSON.stringify(json));
  await writeFile(join(dir, "config.json"), JSON.stringify({ ...config, vocab_size: id + 1 }));
  await writeFile(join(dir, "chat_template.jinja"), template);
  const tokenizer = await loadTokenizer(dir);
  assert.deepEqual([...(tokenizer.toolMarks ?? [])], [[id, "[TOOL_CALLS]"]]);
  const toolCalls = [{ id: "call_0123456789", name: "f", arguments: '{"a": 1}' }];
  const text = tokenizer.chatText([
    { role: "user", content: "hi " },
    { role: "assistant", content: "", toolCalls },
    { role: "tool", content: "rain", toolCallId: "call_0123456789" },
  ]);
  assert.equal(text, 'hi [TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]123456789: rain');
  await rm(dir, { recursive: true });
});

test("chats render as transformers renders them, with the generation prompt", async () => {
  const tokenizer = await loadTokenizer(folder);
  for (const { messages, prompt } of expected.chats) assert.equal(tokenizer.chatText(messages), prompt);
});

test("generation ends at the id that generation_config.json names", async () => {
  assert.deepEqual((await loadTokenizer(folder)).eosIds, [2]);
});

test("a stream of any tokens gives the same text as decoding them at once, and never half a character", async () => {
  const tokenizer = await loadTokenizer(folder);
  const ids = fc.array(fc.integer({ min: 3, max: 319 }), { maxLength: 60 });
  fc.assert(
    fc.property(
      fc.oneof(
        ids,
        fc.string({ unit: "grapheme" }).map((text) => [...tokenizer.encode(text)]),
      ),
      (tokens) => {
        const stream = tokenizer.decoder();
        const pieces = tokens.map((id) => stream.push(id));
        const all = pieces.join("") + stream.flush();
        for (const piece of pieces) assert.ok(piece.isWellFormed());
        const bytes = Buffer.concat(tokens.map((id) => Buffer.from(pieceBytes(id))));
        assert.deepEqual(Buffer.concat(tokens.map((id) => tokenizer.piece(id))), bytes);
        assert.equal(all, new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
      },
    ),
    { numRuns: 300 },
  );
});

/** The oracle's own view of a token: latin-1 of the byte alphabet, rebuilt here from the vocabulary file. */
const vocab: Record<string, number> = JSON.parse(await readFile(join(folder, "tokenizer.json"), "utf8")).model.vocab;
const texts = new Map(Object.entries(vocab).map(([text, id]) => [id, text]));
function pieceBytes(id: number): number[] {
  const visible = [...Array(256).keys()].filter((b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
  const hidden = [...Array(256).keys()].filter((b) => !visible.includes(b));
  return [...texts.get(id)!].map((c) => (c.charCodeAt(0) < 256 ? c.charCodeAt(0) : hidden[c.charCodeAt(0) - 256]!));
}

test("tokens of a SentencePiece vocabulary stand for their text and bytes, not for their names", () => {
  const text = (token: string) => new TextDecoder().decode(sentencePieceBytes(token));
  assert.deepEqual(["\u2581Hello", "\u2581\u2581", "é", "<0x>", "<0x0A>"].map(text), [" Hello", "  ", "é", "<0x>", "\n"]);
  assert.deepEqual([...sentencePieceBytes("<0xF0>")], [0xf0]);
});

test("a window decoder looks back no further for special tokens, and a space after them stays", () => {
  let looked = 0;
  // Words begin with their space, as in SentencePiece, and the first word of a text loses it; 0 is special.
  const decode = (ids: readonly number[]) => {
    looked += ids.length;
    return ids
      .filter((id) => id !== 0)
      .map((id) => ` word${id}`)
      .join("")
      .slice(1);
  };
  const decoder = new WindowDecoder(decode);
  const text = [1, ...new Array<number>(1_000).fill(0), 2, 3].map((id) => decoder.push(id)).join("") + decoder.flush();
  assert.equal(text, "word1 word2 word3");
  assert.ok(looked < 20_000, `${looked} tokens were decoded for 1003`);
});

test("a window decoder holds back what may still become another character", () => {
  const decode = (ids: readonly number[]) => new TextDecoder().decode(Uint8Array.from(ids));
  const decoder = new WindowDecoder(decode);
  const bytes = [...new TextEncoder().encode("aé🙂b")];
  const pieces = bytes.map((byte) => decoder.push(byte));
  assert.deepEqual(pieces, ["a", "", "é", "", "", "", "🙂", "b"]);
  assert.equal(decoder.flush(), "");
});

test("text cut inside a character ends with a replacement character when flushed", async () => {
  const tokenizer = await loadTokenizer(folder);
  const ids = tokenizer.encode("🙂").slice(0, 2);
  assert.equal(tokenizer.decode(ids), "\uFFFD");
});

async function withChanged(name: string, change: (text: string) => string, check: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "enodia-tokenizer-"));
  try {
    await cp(folder, dir, { recursive: true });
    await writeFile(join(dir, name), change(await readFile(join(dir, name), "utf8")));
    await check(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}

const broken: Readonly<Record<string, readonly [file: string, change: (text: string) => string, want: RegExp]>> = {
  "a truncated tokenizer.json": ["tokenizer.json", (text) => text.slice(0, 4000), /tokenizer\.json: is not JSON/],
  "a vocabulary that is no object": ["tokenizer.json", (text) => text.replace(/"vocab":\s*\{/, '"vocab": "no", "x": {'), /model\.vocab/],
  "an id outside the embedding table": ["tokenizer.json", (text) => text.replace(/: 319\b/, ": 4000"), /has id 4000/],
  "an unknown pre-tokenizer": ["tokenizer.json", (text) => text.replace('"ByteLevel"', '"Wondrous"'), /cannot be used/],
  "a chat template that does not parse": ["chat_template.jinja", () => "{% for x in %}", /chat template does not parse/],
  "a config without a vocabulary size": ["config.json", (text) => text.replace("vocab_size", "vocab_syze"), /vocab_size/],
};

for (const [sentence, [file, change, message]] of Object.entries(broken)) {
  test(`${sentence} is refused by name`, async () => {
    await withChanged(file, change, async (dir) => {
      await assert.rejects(loadTokenizer(dir), { name: AppError.name, code: "BadTokenizer", message });
    });
  });
}

test("a template that refuses the messages is the client's error, and so is a model without a template", async () => {
  await withChanged(
    "chat_template.jinja",
    () => "{{ raise_exception('roles must alternate') }}",
    async (dir) => {
      const tokenizer = await loadTokenizer(dir);
      const want = (error: unknown) =>
        error instanceof AppError && error.code === "InvalidRequest" && /roles must alternate/.test(error.message);
      assert.throws(() => tokenizer.encodeChat([{ role: "user", content: "hi" }]), want);
    },
  );
  await withChanged(
    "chat_template.jinja",
    () => "",
    async (dir) => {
      const tokenizer = await loadTokenizer(dir);
      assert.throws(() => tokenizer.encodeChat([{ role: "user", content: "hi" }]), /no chat template/);
    },
  );
});

test("truncations and flipped bytes of tokenizer.json never do anything but load or be refused", async () => {
  const bytes = await readFile(join(folder, "tokenizer.json"));
  let state = 7;
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  for (let i = 0; i < 60; i++) {
    const changed = i % 3 === 0 ? bytes.subarray(0, random(bytes.length)) : Buffer.from(bytes);
    if (i % 3 !== 0) changed[random(changed.length)]! ^= 1 << random(8);
    const dir = await mkdtemp(join(tmpdir(), "enodia-tokenizer-"));
    try {
      await cp(folder, dir, { recursive: true });
      await writeFile(join(dir, "tokenizer.json"), changed);
      await loadTokenizer(dir).catch((error: unknown) => {
        assert.ok(error instanceof AppError, String(error));
        assert.equal(error.code, "BadTokenizer");
      });
    } finally {
      await rm(dir, { recursive: true });
    }
  }
});
