// GGUF files of every layout with damage to their headers: they are read or refused, and ask for no more bytes than they have.
import assert from "node:assert/strict";
import { ggufCheckpoint } from "../../../runtime/modelstore/gguf/checkpoint.ts";
import { ggufModel } from "../../../runtime/modelstore/gguf/index.ts";
import { tokenizerFromGguf } from "../../../runtime/modelstore/gguf/tokenizer.ts";
import { openGguf } from "../../../runtime/weights/gguf.ts";
import { ggufBytes } from "../../kit/models/gguf-writer.ts";
import { mixtralGguf } from "../../kit/models/moe-gguf.ts";
import { published, publishedFile } from "../../kit/models/published-gguf.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged } from "../mutate.ts";
import { fileRefusals, memoryFile } from "./files.ts";

interface Subject {
  readonly wholes: readonly Buffer[];
  readonly open: typeof openGguf;
}

interface Input {
  readonly bytes: Buffer;
  /** Which tensors are read. */
  readonly reads: readonly number[];
}

export const gguf: Fuzzer<Subject, Input> = {
  name: "gguf",
  share: 5,
  deadlineMs: 20_000,
  refusals: fileRefusals,
  async start() {
    const { metadata, tensors } = await mixtralGguf("stacked");
    const layouts = await Promise.all(Object.values(published).map(async (make) => (await publishedFile(make())).gguf));
    return { wholes: [ggufBytes(metadata, tensors), ...layouts], open: openGguf };
  },
  input(random, { wholes }) {
    const whole = wholes[random(wholes.length)] as Buffer;
    // Names, counts and numbers of the architecture come first; the vocabulary after them is most of the header.
    return { bytes: damaged(whole, random, random(2) === 0 ? 1_200 : 20_000), reads: [random(2 ** 20), random(2 ** 20), random(2 ** 20)] };
  },
  async attempt({ open }, { bytes, reads }) {
    const file = await open("x.gguf", memoryFile(bytes));
    const tokenizer = tokenizerFromGguf(file.metadata, "x.gguf");
    const checkpoint = ggufCheckpoint(file, ggufModel(file, tokenizer.vocabulary));
    assert.ok(checkpoint.names.length <= 1_000_000);
    for (const at of reads) await checkpoint.readStored(checkpoint.names[at % checkpoint.names.length] ?? "");
  },
  plant: ({ wholes }) => ({ wholes, open: unguarded(openGguf, /./) }),
};
