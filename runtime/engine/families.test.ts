// Every family from its checkpoint through import, store and engine, on one rank and on three: the greedy tokens are those of transformers.
// What one engine computes of them is shown by test/contract/golden-families.ts.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { engineWorld, goldenCheckpoints, textOf } from "../../test/kit/ranks/loaded-engine.ts";
import { scatterRows, selectPairs } from "../placement/frames/pairs.ts";
import type { Engine, OnDemandExperts } from "./engine.ts";

const folder = join(goldenCheckpoints, "families");

/** Backends that compute every family. */
const backends = ["reference", "cpu"] as const;

/** Sends each pair to the rank that holds its expert; the first of all asks. */
function among(others: readonly Engine[], ranks: number): OnDemandExperts {
  return {
    async run(frame) {
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
    const { ids, greedy } = JSON.parse(readFileSync(join(folder, name, "golden.json"), "utf8"));
    assert.equal(greedy.tokens.length, 50);
    const { store, start } = await engineWorld({ checkpoint: join(folder, name), kvPoolBytes: 1 << 20, maxContext: 64 });
    const [prompt, maxTokens] = [ids.slice(0, greedy.at), greedy.tokens.length];
    for (const backend of backends) {
      const ranks = store.index.experts > 0 ? 3 : 1; // one is enough where nothing is shared
      const hosts = (rank: number) => (_: number, expert: number) => expert % ranks === rank;
      const others: Engine[] = [];
      for (let rank = 1; rank < ranks; rank++) others.push(await start({ backend }, hosts(rank)));
      const first = await start({ backend, onDemand: among(others, ranks) }, hosts(0));
      assert.deepEqual(await textOf(first, { prompt, maxTokens }), greedy.tokens, `${backend}, ${ranks} ranks`);
      if (ranks === 1 || backend === "reference") continue; // slow, and the same to it
      const whole = await start({ backend });
      assert.deepEqual(await textOf(whole, { prompt, maxTokens }), greedy.tokens, `${backend}, one rank`);
    }
  });
}
