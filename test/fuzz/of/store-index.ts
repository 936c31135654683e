// Indexes of a model store that keeps types as they came, with values of other kinds: they are read or refused.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { importModel } from "../../../runtime/modelstore/import.ts";
import { modelDigest } from "../../../runtime/weights/digest.ts";
import { openStore } from "../../../runtime/weights/store-reader.ts";
import { published, writePublished } from "../../kit/models/published-gguf.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damagedJson } from "../mutate.ts";
import { chance } from "../words.ts";
import { fileRefusals } from "./files.ts";

interface Subject {
  readonly out: string;
  readonly config: string;
  readonly index: { readonly modelDigest: string };
  readonly open: typeof openStore;
}

/** The digest that a whole index would have, so that damage is looked at and not only noticed. */
function digested(json: any, config: string, otherwise: string): unknown {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return json;
  try {
    json.modelDigest = modelDigest(config, json);
  } catch {
    json.modelDigest = otherwise; // what has no such lists is refused before the digest is asked
  }
  return json;
}

export const storeIndex: Fuzzer<Subject, unknown> = {
  name: "store-index",
  share: 8,
  deadlineMs: 20_000,
  refusals: fileRefusals,
  async start(scratch) {
    const folder = join(scratch, "published");
    await mkdir(folder);
    await writePublished((published["gpt-oss, MXFP4"] as NonNullable<(typeof published)[string]>)(), folder);
    const out = join(folder, "store");
    const source = join(folder, "model.gguf");
    await importModel({ source, out, overwrite: false, cache: folder, secrets: { HF_ENDPOINT: "http://127.0.0.1:9" } }, () => undefined);
    const config = await readFile(join(out, "config.json"), "utf8");
    return { out, config, index: JSON.parse(await readFile(join(out, "expert-index.json"), "utf8")), open: openStore };
  },
  input(random, { index, config }) {
    const json = chance(random, 12) ? structuredClone(index) : damagedJson(index, random);
    return digested(json, config, index.modelDigest);
  },
  async attempt({ out, open }, json) {
    await writeFile(join(out, "expert-index.json"), JSON.stringify(json) ?? "");
    const store = await open(out);
    try {
      for (const name of store.denseNames) await store.readDense(name);
      for (const layer of store.layerShapes.keys()) store.decodeUnit(await store.readUnit(layer, 1, "source"), "source", layer, 1);
    } finally {
      await store.close();
    }
  },
  plant: (subject) => ({ ...subject, open: unguarded(openStore, /./) }),
};
