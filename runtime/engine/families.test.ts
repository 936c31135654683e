// Every family from its checkpoint through import, store and engine, on one rank and on three: the greedy tokens are those of transformers.
// What one engine computes of them is shown by test/contract/golden-families.ts.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, test } from "node:test";
import { importMoe } from "../modelstore/import-moe.ts";
import { scatterRows, selectPairs } from "../placement/frames/pairs.ts";
import type { ModelStore } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import { createEngine, type Engine, type RemoteExperts } from "./engine.ts";

const root = mkdtempSync(join(tmpdir(), "enodia-families-"));
const folder = resolve(import.meta.dirname, "../../test/golden/families");
const closers: { close(): Promise<unknown> }[] = [];
after(async () => {
  for (const each of closers) await each.close();
  rmSync(root, { recursive: true });
});

/** Backends that compute every family. */
const backends = ["reference", "cpu"] as const;

interface Rank {
  readonly backend: (typeof backends)[number];
  /** The numbers of the experts that it holds. */
  readonly hosts: (expert: number) => boolean;
  readonly remote: RemoteExperts;
}

async function start(store: ModelStore, { backend, hosts, remote }: Rank): Promise<Engine> {
  const options = { codec: "f32", kvPoolBytes: 1 << 20, maxContext: 64 } as const;
  const engine = await createEngine({ storeDir: store.dir, backend, ...options, remote });
  closers.push(engine);
  for (const [layer, { experts }] of store.layerShapes.entries())
    for (let expert = 0; expert < experts; expert++)
      if (hosts(expert)) await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, "f32"));
  return engine;
}

async function tokensOf(engine: Engine, prompt: readonly number[], maxTokens: number): Promise<readonly number[]> {
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
  const tokens: number[] = [];
  for await (const event of engine.generate({ prompt, maxTokens, sampling, eos: [] })) if (event.type === "token") tokens.push(event.id);
  return tokens;
}

const alone: RemoteExperts = { dispatch: () => Promise.reject(new Error("nobody else is there")) };

/** Sends each pair to the rank that holds its expert; the first of all asks. */
function among(others: readonly Engine[], ranks: number): RemoteExperts {
  return {
    async dispatch(frame) {
      const width = frame.rows.length / (Math.max(...frame.pairRows) + 1);
      const out = new Float32Array(frame.pairRows.length * width);
      for (const [i, other] of others.entries()) {
        const pairs = [...frame.pairExperts.keys()].filter((pair) => frame.pairExperts[pair]! % ranks === i + 1);
        if (pairs.length === 0) continue;
        const rows = await other.runExperts({ layer: frame.layer, phase: frame.phase, ...selectPairs(frame, width, pairs) });
        scatterRows(out, width, pairs, rows);
      }
      return out;
    },
  };
}

for (const name of readdirSync(folder).sort()) {
  test(`${name}: imported and served by one rank, and by three that share the experts, the text is that of transformers`, async () => {
    const from = join(folder, name);
    const { ids, greedy } = JSON.parse(readFileSync(join(from, "golden.json"), "utf8"));
    assert.equal(greedy.tokens.length, 50);
    const out = join(root, name);
    await importMoe({ from, out, codecs: ["f32"], overwrite: false }, () => {});
    const store = await openStore(out);
    closers.push(store);
    const prompt = ids.slice(0, greedy.at);
    for (const backend of backends) {
      const ranks = store.index.experts > 0 ? 3 : 1; // one is enough where nothing is shared
      const hosts = (rank: number) => (expert: number) => expert % ranks === rank;
      const others: Engine[] = [];
      for (let rank = 1; rank < ranks; rank++) others.push(await start(store, { backend, hosts: hosts(rank), remote: alone }));
      const first = await start(store, { backend, hosts: hosts(0), remote: among(others, ranks) });
      assert.deepEqual(await tokensOf(first, prompt, greedy.tokens.length), greedy.tokens, `${backend}, ${ranks} ranks`);
      if (ranks === 1 || backend === "reference") continue; // slow, and the same to it
      const whole = await start(store, { backend, hosts: () => true, remote: alone });
      assert.deepEqual(await tokensOf(whole, prompt, greedy.tokens.length), greedy.tokens, `${backend}, one rank`);
    }
  });
}
