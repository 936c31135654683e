// Errors of keys and values in f16 and q8_0, as logits move from those by f32: every family with random weights and published heads, and
// one trained model on prose. A figure of numbers, not of time: it is the same on a busy machine.
import { globSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { kvTypes } from "../../crds/names.ts";
import type { Backend } from "../../runtime/compute/backend.ts";
import { createBackend } from "../../runtime/compute/index.ts";
import { programOf } from "../../runtime/models/index.ts";
import { loadTokenizer } from "../../runtime/text/tokenizer.ts";
import { codecsOf, type ModelStore } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { type KvErrors, kvErrors, wideModel } from "../contract/kv-errors.ts";
import { provideSmolMoe } from "../kit/models/local-models.ts";
import type { ModelWeights } from "../kit/models/small-engine.ts";
import { log } from "./serve.ts";

const familyLengths = [200, 3000] as const;
/** A trained model is larger, and takes minutes for 3,000 tokens. */
const trainedLengths = [200, 1000] as const;
/** Logits of a vocabulary of many thousands are kept of so many rows of a text. */
const rowsMost = 300;
const narrowTypes = kvTypes.filter((type) => type !== "f32");

interface KvRow extends Readonly<Record<keyof KvErrors, string>> {
  readonly model: string;
  readonly tokens: number;
  readonly type: string;
}

const shares: readonly (keyof KvErrors)[] = ["otherToken", "otherExpert"];

function rowOf(place: Pick<KvRow, "model" | "tokens" | "type">, errors: KvErrors): KvRow {
  const said = Object.entries(errors).map(([name, value]: [string, number]) => {
    const share = (shares as readonly string[]).includes(name);
    return [name, share ? `${(100 * value).toFixed(1)}%` : value.toExponential(1)];
  });
  return Object.assign({ ...place }, Object.fromEntries(said)) as KvRow;
}

/** Prose and code of the repository, as tokens of a store's tokenizer. */
async function proseOf(storeDir: string): Promise<readonly number[]> {
  const files = globSync(resolve(import.meta.dirname, "../../runtime/modelstore/upcycle/topics/*.txt")).sort();
  const tokenizer = await loadTokenizer(storeDir);
  return [...tokenizer.encode(files.map((file) => readFileSync(file, "utf8")).join("\n\n"))];
}

function storedModel(store: ModelStore): ModelWeights {
  const codec = codecsOf(store.index).find((name) => name === "f32" || name === "source");
  if (codec === undefined)
    throw new AppError(`the store ${store.dir} has no experts as f32 or source: import it with --codec f32`, { code: "InvalidOption" });
  return {
    program: programOf(store.config),
    weights: async ({ weights }) =>
      Object.fromEntries(await Promise.all(weights.map(async ({ name }) => [name, await store.readDense(name)] as const))),
    expert: async (layer, expert) => store.decodeUnit(await store.readUnit(layer, expert, codec), codec, layer, expert),
  };
}

interface Subject {
  readonly name: string;
  readonly model: ModelWeights;
  readonly ids: readonly number[];
  readonly lengths: readonly number[];
}

async function rowsOf(backend: Backend, { name, model, ids, lengths }: Subject): Promise<readonly KvRow[]> {
  const rows: KvRow[] = [];
  for (const tokens of lengths) {
    log(`${name}, ${tokens} tokens`);
    const every = model.program.vocab > 10_000 ? Math.ceil(tokens / rowsMost) : 1;
    const found = await kvErrors(backend, model, { ids: ids.slice(0, tokens), every }, narrowTypes);
    for (const [i, type] of narrowTypes.entries()) rows.push(rowOf({ model: name, tokens, type }, found[i] as KvErrors));
  }
  return rows;
}

export async function kvBench(args: readonly string[]): Promise<readonly KvRow[]> {
  const { values } = parseArgs({ args: [...args], options: { store: { type: "string" } } });
  const backend = await createBackend("cpu", { threads: 1 });
  const rows: KvRow[] = [];
  try {
    for (const folder of globSync(resolve(import.meta.dirname, "../golden/families/*")).sort()) {
      const { ids } = JSON.parse(readFileSync(join(folder, "long.json"), "utf8"));
      rows.push(...(await rowsOf(backend, { name: basename(folder), model: wideModel(folder), ids, lengths: familyLengths })));
    }
    const storeDir = values.store ?? (await provideSmolMoe(log));
    const store = await openStore(storeDir);
    try {
      const ids = await proseOf(storeDir);
      rows.push(...(await rowsOf(backend, { name: basename(storeDir), model: storedModel(store), ids, lengths: trainedLengths })));
    } finally {
      await store.close();
    }
  } finally {
    await backend.close();
  }
  return rows;
}
