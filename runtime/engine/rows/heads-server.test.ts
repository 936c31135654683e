// What other ranks may ask of the heads' server: sizes that are not the model's are refused before any work, one prompt goes on at a time,
// and rows follow each other.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createBackend } from "../../compute/index.ts";
import { type Attention, attentionOf, headGroups, type SplitBlock } from "../../kernels/head-groups.ts";
import { plainRope } from "../../kernels/rope.ts";
import { decodeHeadsFrame, encodeHeadsFrame, type HeadsFrame } from "../../net/heads-codec.ts";
import { HeadsServer } from "./heads-server.ts";

const context = 64;
const op = { op: "attention", q: "q", k: "k", v: "v", out: "out", heads: 4, kvHeads: 2, headDim: 8, valueDim: 8 } as const;
const attention = (layer: number): Attention => ({ ...op, layer, rope: plainRope(8, 1e4), scale: 1, window: 0 });
/** Of one head of keys, and two of queries. */
const rowBytes = 4 * (2 * 8 + 8 + 8);

async function open() {
  const backend = await createBackend("cpu", { threads: 1 });
  const [all] = headGroups(op, 1);
  const whole = attentionOf(attention(0), all as NonNullable<typeof all>);
  const splits = [0, 1].map((layer): SplitBlock => ({ attention: attention(layer), before: whole, behind: whole }));
  const blocks = await Promise.all(splits.map(() => backend.compile(whole, {})));
  let nowMs = 0;
  const server = new HeadsServer({
    backend,
    blocks,
    splits,
    kv: { context, type: "f32" },
    exclusively: (work) => work("main"),
    now: () => nowMs,
  });
  const ask = async (from: number, frame: Partial<HeadsFrame>, bytes?: number) => {
    const all = { seq: 1, layer: 0, session: 1, past: 0, tokens: 3, kvHeads: 1, ...frame };
    const answer = await server.answer(all, new Uint8Array(bytes ?? all.tokens * rowBytes), from);
    return answer instanceof Uint8Array ? answer.byteLength : answer.type;
  };
  const later = (ms: number): void => {
    nowMs += ms;
  };
  return { ask, later, close: () => backend.close() };
}

test("frames that do not fit the model are refused, whatever they say", async () => {
  const { ask, close } = await open();
  for (const wrong of [{ layer: 2 }, { kvHeads: 0 }, { kvHeads: 2 }, { tokens: 0 }, { tokens: context + 1 }, { past: context - 2 }])
    assert.equal(await ask(1, wrong), "rejected", JSON.stringify(wrong));
  assert.equal(await ask(1, {}, 3 * rowBytes - 4), "rejected");
  assert.equal(await ask(1, {}), 3 * 2 * 8 * 4);
  await close();
});

test("one prompt goes on at a time, its rows follow each other in each layer, and another one begins where it has ended", async () => {
  const { ask, later, close } = await open();
  const answered = 3 * 2 * 8 * 4;
  assert.equal(await ask(1, { past: 3 }), "busy", "it does not begin in the middle");
  assert.equal(await ask(1, {}), answered);
  assert.equal(await ask(1, { past: 3 }), answered);
  assert.equal(await ask(1, { past: 3 }), "busy", "these rows came before");
  assert.equal(await ask(1, { layer: 1 }), answered);
  assert.equal(await ask(2, {}), "busy");
  assert.equal(await ask(1, { session: 2 }), answered, "its own next prompt");
  assert.equal(await ask(1, { past: 6 }), "busy", "the first one is over");
  later(10_000);
  assert.equal(await ask(2, {}), answered);
  await close();
});

test("heads of frames come back as they were, and others are invalid", () => {
  const field = fc.nat(0xffff_ffff);
  const frames = fc.record({ seq: field, layer: field, session: field, past: field, tokens: field, kvHeads: field });
  fc.assert(fc.property(frames, (frame) => assert.deepEqual(decodeHeadsFrame(encodeHeadsFrame(frame)), { ...frame })));
  for (const length of [0, 23, 25]) assert.throws(() => decodeHeadsFrame(new Uint8Array(length)), { code: "InvalidFrame" });
});
