// Heads over ranks: groups have the bits that their heads have among all, the all-to-all moves 4Nh/P, and the model pays where it should.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createBackend } from "../../../runtime/compute/index.ts";
import { columnsOf, headGroups, putColumns, takeColumns } from "../../../runtime/kernels/head-groups.ts";
import { rowOf } from "../ulysses.ts";
import { GroupAttention } from "./group-attention.ts";
import { allToAllBytes, linkBytes } from "./heads.ts";
import { type Rates, spreadBytes } from "./model.ts";

const context = 150;
const shapes = {
  "three heads share one": { heads: 9, kvHeads: 3, headDim: 64, valueDim: 64 },
  "three heads share one of f16": { heads: 12, kvHeads: 4, headDim: 64, valueDim: 64, type: "f16" },
  "each has its own, with other values": { heads: 4, kvHeads: 4, headDim: 128, valueDim: 64 },
} as const;

for (const [name, shape] of Object.entries(shapes))
  test(`${name}: a prompt in any pieces has the same bits on 1, 2 and 4 ranks`, async () => {
    const backend = await createBackend("cpu", { threads: 1 });
    const type = "type" in shape ? shape.type : "f32";
    const worlds = await Promise.all(
      [1, 2, 4].map((ranks) =>
        Promise.all(
          headGroups(shape, ranks).map(async (group) => ({
            group,
            own: await GroupAttention.open(backend, { shape, group, context, type }),
          })),
        ),
      ),
    );
    const { heads, kvHeads, headDim, valueDim } = shape;
    const widths = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * valueDim, out: heads * valueDim };
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: context }), { minLength: 1, maxLength: 4 }), fc.nat(9), async (sizes, seed) => {
        for (let past = 0, i = 0; past < context; i++) {
          const tokens = Math.min(sizes[i] ?? context, context - past);
          const piece = worlds[0]![0]!.own.piece(tokens, seed + i);
          const outs: Buffer[] = [];
          for (const world of worlds) {
            const out = new Float32Array(tokens * widths.out);
            for (const { group, own } of world) {
              const of = columnsOf(shape, group);
              const part = (key: "q" | "k" | "v") => takeColumns(piece[key], widths[key], of[key]);
              putColumns(out, widths.out, of.out, await own.run(past, { q: part("q"), k: part("k"), v: part("v") }));
            }
            outs.push(Buffer.from(out.buffer));
          }
          for (const out of outs) assert.ok(out.equals(outs[0] as Buffer));
          past += tokens;
        }
      }),
      { numRuns: 6 },
    );
    await backend.close();
  });

test("groups have every head once, as evenly as heads of keys divide", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 16 }),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 1, max: 20 }),
      (kvHeads, each, ranks) => {
        const groups = headGroups({ heads: kvHeads * each, kvHeads }, ranks);
        let [next, kvNext] = [0, 0];
        for (const { from, heads, kvFrom, kvHeads: own } of groups) {
          assert.deepEqual([from, kvFrom, heads], [next, kvNext, own * each]);
          assert.ok(own >= Math.floor(kvHeads / groups.length) && own <= Math.ceil(kvHeads / groups.length));
          [next, kvNext] = [next + heads, kvNext + own];
        }
        assert.deepEqual([next, kvNext, groups.length], [kvHeads * each, kvHeads, Math.min(ranks, kvHeads)]);
      },
    ),
  );
});

const wide = { heads: 16, kvHeads: 16, headDim: 128, valueDim: 128, layers: 16, hidden: 2048, topK: 8 };

test("a rank moves 4Nh/P of what it has, all but its own part over its link, and no more where ranks and tokens double", () => {
  const h = 4 * 16 * 128;
  const evenly = (tokens: number, ranks: number) => allToAllBytes(wide, new Array<number>(ranks).fill(tokens / ranks));
  for (const ranks of [1, 2, 4, 8]) {
    const sent = evenly(4096, ranks);
    for (const to of sent)
      assert.equal(
        to.reduce((sum, bytes) => sum + bytes, 0),
        (4 * 4096 * h) / ranks,
      );
    assert.equal(linkBytes(sent), (((4 * 4096 * h) / ranks) * (ranks - 1)) / ranks);
  }
  const totals = [evenly(4096, 4), evenly(8192, 8)].map((sent) => sent[0]?.reduce((sum, bytes) => sum + bytes, 0));
  assert.equal(totals[0], totals[1]);
  assert.equal(spreadBytes(wide, 4096, "heads", 2), (3 * 4096 * h) / 2);
});

test("one rank gains nothing, a slow link loses, and a long prompt gains up to its ranks", () => {
  const position = { 1: 1e-3, 2: 5e-4, 4: 2.5e-4 };
  const attention = new Map(Object.entries(position).map(([ranks, each]) => [Number(ranks), { first: 0, position: each }]));
  const rates: Rates = { dense: 1, experts: 2, attention };
  const row = (ranks: number, tokens: number, link = 1e6) =>
    rowOf("", { shape: wide, rates, tokens, world: { ranks, threads: 1, link, messageMs: 0.1 } });
  const alone = row(1, 4096);
  assert.deepEqual([alone.heads, alone.tokens, alone.headsFrom, alone.megabytes], [1, 1, "never", "0, 0"]);
  assert.ok(row(2, 4096, 100).heads < 1);
  const gains = [1024, 4096, 16_384, 65_536].map((tokens) => row(4, tokens));
  for (const [i, { heads, tokens }] of gains.entries())
    assert.ok(heads > (gains[i - 1]?.heads ?? 1) && heads <= (tokens as number) && (tokens as number) <= 4.01);
  assert.ok((gains[0]?.headsFrom as number) > (gains[0]?.tokensFrom as number));
});
