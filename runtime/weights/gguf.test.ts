// The GGUF reader against transformers' reading of the same file (test/golden/tiny-gguf), and against broken files.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, open, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { dequantizeGgml } from "../kernels/ggml/index.ts";
import { ggufModel } from "../modelstore/gguf/index.ts";
import { importModel } from "../modelstore/import.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { openCheckpoint } from "./checkpoint.ts";
import { bytesOf } from "./floats.ts";
import { openGguf } from "./gguf.ts";
import { type GgufValue, NeedMore, parseGgufHeader } from "./gguf-header.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-gguf-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden/tiny-gguf");
const path = join(golden, "tiny-llama.gguf");
const whole = await readFile(path);
const expected = JSON.parse(await readFile(join(golden, "golden.json"), "utf8"));
assert.equal(expected.magic, "enodia-golden");
assert.equal(expected.version, 1, `remake: ${expected.remake}`);
const quiet = () => undefined;
const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });
const importing = (source: string, out: string) =>
  importModel(
    {
      source,
      out,
      codecs: ["f32"],
      overwrite: true,
      folder: true,
      cache: join(dir, "cache"),
      secrets: { HF_ENDPOINT: "http://127.0.0.1:9" },
    },
    quiet,
  );

test("every tensor equals what transformers reads, bit for bit: block formats and rotary order included", async () => {
  const result = await importing(`file://${path}`, join(dir, "dense"));
  assert.deepEqual([result.kind, result.architecture], ["dense", "LlamaForCausalLM"]);
  const checkpoint = await openCheckpoint(result.out);
  const names = Object.keys(expected.tensors);
  assert.deepEqual(checkpoint.names.toSorted(), names.toSorted());
  for (const name of names) {
    const hash = createHash("sha256")
      .update(bytesOf(await checkpoint.read(name)))
      .digest("hex");
    assert.equal(hash, expected.tensors[name], name);
  }
  await checkpoint.close();
});

test("the tokenizer rebuilt from GGUF metadata encodes as the original does", async () => {
  await importing(path, join(dir, "dense"));
  const tokenizer = await loadTokenizer(join(dir, "dense"));
  const texts = JSON.parse(await readFile(join(golden, "../tokenizer.json"), "utf8"));
  for (const { text, ids } of texts.texts) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
  for (const { messages, prompt } of texts.chats) assert.equal(tokenizer.chatText(messages), prompt);
  assert.deepEqual(tokenizer.eosIds, [2]);
});

test("formats decode single blocks as their description says", () => {
  const q4Zero = new Uint8Array(18).fill(0x98);
  q4Zero.set([0x00, 0x40]); // d = 2
  const zero = dequantizeGgml("q4_0", q4Zero);
  assert.deepEqual([zero[0], zero[16]], [0, 2]);
  const q4One = new Uint8Array(20).fill(0xf1);
  q4One.set([0x00, 0x38, 0x00, 0xbc]); // d = 0.5, m = -1
  const one = dequantizeGgml("q4_1", q4One);
  assert.deepEqual([one[0], one[16]], [-0.5, 6.5]);
  const q8 = new Uint8Array(34).fill(0xff);
  q8.set([0x00, 0x3c]); // d = 1
  assert.equal(dequantizeGgml("q8_0", q8)[31], -1);
});

test("a prefix of a header asks for more, never for less", () => {
  for (const length of [0, 3, 8, 23, 100, 2000])
    assert.throws(() => parseGgufHeader("x", whole.subarray(0, length), whole.length), NeedMore);
});

const bytes = (...parts: (number[] | string | bigint)[]): Uint8Array =>
  Buffer.concat(
    parts.map((part) => {
      if (typeof part === "string") return Buffer.concat([u64(BigInt(part.length)), Buffer.from(part)]);
      return typeof part === "bigint" ? u64(part) : Buffer.from(part);
    }),
  );
const u64 = (value: bigint): Buffer => {
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(value);
  return out;
};
const u32 = (value: number): number[] => [...new Uint8Array(Uint32Array.of(value).buffer)];
const start = [0x47, 0x47, 0x55, 0x46, ...u32(3)];
const huge = 2n ** 63n;

const broken: Readonly<Record<string, readonly [bytes: Uint8Array, want: RegExp, code?: string]>> = {
  "an empty file": [new Uint8Array(0), /cut short/],
  "another format": [Buffer.from("PK\u0003\u0004 and so on, long enough"), /does not begin with GGUF/],
  "a future version": [bytes([0x47, 0x47, 0x55, 0x46, ...u32(4)], 0n, 0n), /version 4/],
  "a big-endian file": [bytes([0x47, 0x47, 0x55, 0x46, 0, 0, 0, 3], 0n, 0n), /little-endian/],
  "2^63 tensors": [bytes(start, huge, 0n), /number of tensors/],
  "a key of 2^40 bytes": [bytes(start, 0n, 1n, 2n ** 40n), /metadata key/],
  "a list of 2^50 texts": [bytes(start, 0n, 1n, "k", u32(9), u32(8), 2n ** 50n), /more than the file holds/],
  "lists within lists within lists": [
    bytes(start, 0n, 1n, "k", u32(9), u32(9), 1n, u32(9), 1n, u32(9), 1n, u32(9), 1n, new Array(64).fill(0)),
    /nests/,
  ],
  "an unknown value type": [bytes(start, 0n, 1n, "k", u32(77)), /unknown type 77/],
  "a tensor of nine dimensions": [bytes(start, 1n, 0n, "t", u32(9)), /9 dimensions/],
  "a tensor past the end": [bytes(start, 1n, 0n, "t", u32(1), 2n ** 40n, u32(0), 0n), /past the file/],
  "a tensor type nobody reads": [bytes(start, 1n, 0n, "t", u32(1), 32n, u32(15), 0n), /GGML type 15; supported are/, "UnsupportedDtype"],
  "an alignment of zero": [bytes(start, 0n, 1n, "general.alignment", u32(4), u32(0)), /general\.alignment is 0/],
};

for (const [sentence, [content, want, code = "BadGguf"]] of Object.entries(broken)) {
  test(`${sentence} is refused`, async () => {
    const file = join(dir, "broken.gguf");
    await writeFile(file, content);
    await assert.rejects(openGguf(file), refusal(code, want));
  });
}

const manyValues = 2_500_000;
const tooMuch: Readonly<Record<string, readonly [bytes: Uint8Array, size: number, want: RegExp]>> = {
  "one array of five million numbers": [
    bytes(start, 0n, 1n, "k", u32(9), u32(0), BigInt(2 * manyValues)),
    2 * manyValues + 100,
    /metadata up to "k" has 5000000 values in arrays, more than the 4000000 allowed/,
  ],
  "two arrays of half as many": [
    Buffer.concat([
      bytes(start, 0n, 2n, "k", u32(9), u32(0), BigInt(manyValues), new Array(manyValues).fill(0)),
      bytes("l", u32(9), u32(0), BigInt(manyValues)),
    ]),
    2 * manyValues + 200,
    /metadata up to "l" has 5000000 values in arrays/,
  ],
  "texts of 80 MB": [
    bytes(start, 0n, 1n, "k", u32(9), u32(8), 5n, 16n * 2n ** 20n),
    90_000_000,
    /has a header of more than 67108864 bytes/,
  ],
};
for (const [sentence, [content, size, want]] of Object.entries(tooMuch)) {
  test(`a header with ${sentence} is refused before it is read into memory`, async () => {
    const file = join(dir, "huge.gguf");
    await writeFile(file, content);
    await truncate(file, size);
    if (sentence.startsWith("texts")) await repeatText(file, content.length - 8, 5);
    await assert.rejects(openGguf(file), refusal("BadGguf", want));
    await rm(file);
  });
}

/** Writes the length of 16 MiB before each of the texts; between them the file stays sparse. */
async function repeatText(file: string, first: number, texts: number): Promise<void> {
  const handle = await open(file, "r+");
  for (let i = 0; i < texts; i++) await handle.write(u64(16n * 2n ** 20n), 0, 8, first + i * (8 + 16 * 2 ** 20));
  await handle.close();
}

test("a FIFO is no model, and it is not waited for", { timeout: 10_000 }, async () => {
  const fifo = join(dir, "fifo.gguf");
  execFileSync("mkfifo", [fifo]);
  await assert.rejects(importing(fifo, join(dir, "no")), { name: AppError.name, message: /is a FIFO/ });
});

test("what is wrong in the metadata is told with the file's name", async () => {
  const file = join(dir, "unnamed.gguf");
  const key = "llama.block_count";
  assert.ok(whole.includes(key));
  await writeFile(file, Buffer.from(whole.toString("latin1").replace(key, "llama.block_coun_"), "latin1"));
  await assert.rejects(importing(file, join(dir, "no")), {
    name: AppError.name,
    message: `${file}: GGUF metadata "llama.block_count" is missing`,
  });
});

test("a GGUF of another architecture or tokenizer is refused by name", async () => {
  const swap = async (from: string, to: string): Promise<string> => {
    const file = join(dir, "swapped.gguf");
    await writeFile(file, Buffer.from(whole.toString("latin1").replace(from, to), "latin1"));
    return file;
  };
  const architecture = await swap(
    "general.architecture\u0008\0\0\0\u0005\0\0\0\0\0\0\0llama",
    "general.architecture\u0008\0\0\0\u0005\0\0\0\0\0\0\0bloom",
  );
  await assert.rejects(importing(architecture, join(dir, "no")), refusal("UnknownArchitecture", /"bloom"/));
  await assert.rejects(importing(await swap("smollm", "sm0llm"), join(dir, "no")), refusal("UnsupportedTokenizer", /"sm0llm"/));
});

test("rotary positions that are scaled are refused by the key that says so, whatever its age", async () => {
  const file = await openGguf(path);
  await file.close();
  const read = (more: Record<string, GgufValue>) =>
    ggufModel({ ...file, metadata: new Map([...file.metadata, ...Object.entries(more)]) }, 320).config.num_hidden_layers;
  const refused: [more: Record<string, GgufValue>, want: RegExp][] = [
    [{ "llama.rope.scaling.factor": 4 }, /rope\.scaling\.factor = 4 is not supported/],
    [{ "llama.rope.scale_linear": 2 }, /rope\.scale_linear = 2 is not supported/],
    [{ "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4 }, /rope\.scaling\.factor = 4/],
    [{ "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 1 }, /rope\.scaling\.type = yarn/],
  ];
  for (const [more, want] of refused) assert.throws(() => read(more), refusal("UnsupportedModel", want), JSON.stringify(more));
  assert.equal(read({ "llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4 }), 2);
  assert.equal(read({ "llama.rope.scaling.factor": 1 }), 2);
  assert.equal(read({ "llama.rope.scale_linear": 0 }), 2);
});

test("a block count below the layers that are stored is refused with the tensor that nobody would read", async () => {
  const key = whole.indexOf("llama.block_count") + "llama.block_count".length;
  assert.deepEqual([whole.readUInt32LE(key), whole.readUInt32LE(key + 4)], [4, 2], "a u32 that is 2");
  const changed = Buffer.from(whole);
  changed.writeUInt32LE(1, key + 4);
  const file = join(dir, "one-layer.gguf");
  await writeFile(file, changed);
  await assert.rejects(
    importing(file, join(dir, "one-layer")),
    refusal("BadGguf", /llama\.block_count is 1, and tensor "blk\.1\..* lies beyond/),
  );
});

test("a weight that is NaN is refused with tensor and position", async () => {
  const changed = Buffer.from(whole);
  const { dataStart, tensors } = parseGgufHeader(path, whole, whole.length);
  const norm = tensors.find(({ name }) => name === "output_norm.weight");
  changed.writeFloatLE(Number.NaN, dataStart + norm!.offset + 4 * 5);
  const file = join(dir, "nan.gguf");
  await writeFile(file, changed);
  await assert.rejects(
    importing(file, join(dir, "nan")),
    refusal("UnusableWeight", /nan\.gguf: tensor "output_norm\.weight" has NaN at \[5\]/),
  );
});

test("truncations and flipped bytes anywhere import or are refused, and leave nothing behind", async () => {
  let state = 5;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % below;
  };
  const file = join(dir, "fuzz.gguf");
  let refused = 0;
  for (let i = 0; i < 90; i++) {
    const changed = i % 3 === 0 ? whole.subarray(0, random(whole.length)) : Buffer.from(whole);
    if (i % 3 !== 0) changed[random(9000)]! ^= 1 << random(8);
    await writeFile(file, changed);
    try {
      await importing(file, join(dir, "fuzz"));
    } catch (error) {
      assert.ok(error instanceof AppError, String(error));
      refused++;
    }
  }
  assert.ok(refused >= 40, `${refused} of 90 refused`);
});
