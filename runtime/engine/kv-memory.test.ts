// The whole engine on the processor where KV memory is counted in blocks: texts are those that requests have alone, whoever gives
// memory up, reuses what others computed, or guesses ahead.
import assert from "node:assert/strict";
import { join } from "node:path";
import { before, test } from "node:test";
import { changedCheckpoint } from "../../test/kit/models/changed-checkpoint.ts";
import {
  collect,
  engineWorld,
  goldenCheckpoints,
  greedy,
  promptOf as prompt,
  textOf as text,
  tokensOf,
} from "../../test/kit/ranks/loaded-engine.ts";
import type { Engine } from "./engine.ts";

const block = 2 * 2 * 4096; // of halves: two layers, keys and values, 64 positions of 2 heads of 16
const requests = [4, 30, 17, 9, 2, 25].map((length, i) => ({ prompt: prompt(20 + i, length), maxTokens: 125 }));
const options = { codec: "iq4_nl", kvType: "f16", maxContext: 256, threads: 1 } as const;
const { root, start } = await engineWorld({ codecs: ["iq4_nl"], ...options });
let alone: readonly (readonly number[])[];
before(async () => {
  const engine = await start({ kvPoolBytes: 40 * block });
  alone = await texts(engine, requests, 1);
});

/** The texts of the requests, so many at a time. */
async function texts(engine: Engine, of: typeof requests, atOnce: number): Promise<number[][]> {
  const said: number[][] = [];
  for (let i = 0; i < of.length; i += atOnce) said.push(...(await Promise.all(of.slice(i, i + atOnce).map((each) => text(engine, each)))));
  return said;
}

test("a pool that holds one whole context serves six requests, whose texts are those alone, whoever gives memory up", async () => {
  const engine = await start({ kvPoolBytes: 4 * block });
  const { kvBlocks, kvBlockTokens, kvBytes, kvSlots } = engine.describe();
  assert.deepEqual([kvBlocks, kvBlockTokens, kvBytes, kvSlots], [4, 64, 4 * block, 4]);
  assert.deepEqual(await texts(engine, requests, 6), alone);
  const { preemptions, blocksUsed, blocksKept } = await engine.stats();
  assert.ok(preemptions > 0 && blocksUsed === 0 && blocksKept > 0, JSON.stringify({ preemptions, blocksUsed, blocksKept }));
});

test("a request that waits for its keys and values counts as open, and is computed or ends as any other", async () => {
  const engine = await start({ kvPoolBytes: 4 * block });
  const [fetch, left] = [Promise.withResolvers<void>(), new AbortController()];
  const waiting = [collect(engine, { prompt: prompt(1, 4), maxTokens: 2, after: fetch.promise })];
  waiting.push(collect(engine, { prompt: prompt(1, 5), maxTokens: 2, after: fetch.promise, signal: left.signal }));
  assert.deepEqual(engine.load(), { queuedTokens: 9, activeRequests: 2 });
  left.abort();
  fetch.resolve();
  const ends = (await Promise.all(waiting)).map((events) => events.at(-1));
  assert.deepEqual(
    ends.map((end) => end?.type === "finish" && end.reason),
    ["length", "cancelled"],
  );
  assert.deepEqual(engine.load(), { queuedTokens: 0, activeRequests: 0 });
});

/** The most requests that had a slot at once until all have ended. */
async function mostAtOnce(engine: Engine, running: Promise<unknown>): Promise<number> {
  let most = 0;
  for (let done = false; !done; ) {
    most = Math.max(most, (await engine.stats()).slotsUsed);
    done = await Promise.race([running.then(() => true), new Promise<boolean>((resolve) => setImmediate(() => resolve(false)))]);
  }
  return most;
}

test("short requests run at once where whole contexts would not, and their memory is theirs alone", async () => {
  const engine = await start({ kvPoolBytes: 16 * block });
  const running = texts(
    engine,
    requests.map((each) => ({ ...each, maxTokens: 30 })),
    6,
  );
  assert.equal(await mostAtOnce(engine, running), 6);
  assert.deepEqual(
    await running,
    alone.map((tokens) => tokens.slice(0, 30)),
  );
  assert.equal((await engine.stats()).preemptions, 0);
});

test("eight streams with a long context do not queue on a pool of 256Mi when their real contexts fit", async () => {
  const maxContext = 200_000;
  const from = await changedCheckpoint(join(goldenCheckpoints, "tiny-f32"), root, (_, config) => {
    config.max_position_embeddings = maxContext;
  });
  const long = await engineWorld({ checkpoint: from, codecs: ["iq4_nl"], ...options });
  const engine = await long.start({ maxContext, kvPoolBytes: 256 << 20 });
  const { kvBlocks, kvBlockTokens, maxContext: context } = engine.describe();
  assert.equal(context, maxContext);
  assert.ok(8 * Math.ceil(context / kvBlockTokens) > kvBlocks, "eight whole contexts do not fit");
  const streams = Array.from({ length: 8 }, (_, i) => collect(engine, { prompt: prompt(40 + i, 120), maxTokens: 100 }));
  assert.equal(await mostAtOnce(engine, Promise.all(streams)), 8);
  for (const events of await Promise.all(streams)) assert.equal(tokensOf(events).length, 100);
  assert.equal((await engine.stats()).preemptions, 0);
});

test("a second turn reuses the answer of the first", async () => {
  const engine = await start({ kvPoolBytes: 16 * block });
  const { prompt: asked } = requests[0]!;
  const answer = await text(engine, { prompt: asked, maxTokens: 60 });
  const turn = { prompt: [...asked, ...answer, 5, 6], maxTokens: 10 };
  const events = await collect(engine, turn);
  assert.equal(events[1]?.type === "started" && events[1].cachedPromptTokens, 63, "all but the last token, which was never fed");
  const fresh = await start({ kvPoolBytes: 16 * block });
  assert.deepEqual(tokensOf(events), await text(fresh, turn));
});

test("guessed tokens leave texts as they are, greedy and sampled, alone and among others", async () => {
  const engine = await start({ kvPoolBytes: 40 * block, limits: { draftTokens: 6 } });
  assert.deepEqual(await texts(engine, requests, 1), alone);
  assert.deepEqual(await texts(engine, requests, 3), alone);
  const plain = await start({ kvPoolBytes: 40 * block });
  for (const token of [4, 7]) {
    const sampling = token % 2 === 0 ? greedy : { temperature: 0.02, topP: 0.9, topK: 0, seed: 5n };
    const again = { prompt: new Array<number>(30).fill(token), maxTokens: 60, sampling };
    assert.deepEqual(await text(engine, again), await text(plain, again));
  }
  const { drafted, accepted } = await engine.stats();
  assert.ok(accepted > 0 && accepted < drafted, `${accepted} of ${drafted}`);
});

test("a number type that heads do not fit or a backend has not is refused by the field's name", async () => {
  const refused = { code: "UnsupportedShape", message: /kvType: .*q8_0/ };
  await assert.rejects(start({ backend: "cpu", kvType: "q8_0" }), refused);
  await assert.rejects(start({ backend: "reference", kvType: "q8_0" }), refused);
});
