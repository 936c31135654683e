// The bit contract of exact backends as properties: a row's bits depend on neither its batch, its mates, their pasts, the chunking
// of the prefill, nor the number of threads. That is what makes text independent of ranks and plans.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import type { CodecName, KvType } from "../../crds/names.ts";
import type { Backend, Compiled, KvCache, Outputs } from "../../runtime/compute/backend.ts";
import { attentionCases } from "../../runtime/kernels/attention-cases.ts";
import type { KvGroup } from "../../runtime/kernels/kv-groups.ts";
import { randomTensor } from "../../runtime/kernels/random.ts";
import type { Segment } from "../../runtime/kernels/segment.ts";
import { kvOf } from "../kit/models/small-engine.ts";
import { syntheticModel } from "../kit/models/synthetic.ts";

/** Widths of a small real model, so that the backend takes the code paths it takes in service. */
const realistic = {
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 1,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  num_local_experts: 8,
  vocab_size: 1000,
};
const rowsMax = 256;
const contextMax = 96;
const runs = 12;
/** For a second form of what is tried at length: its own paths, not every split again. */
const fewRuns = Math.ceil(runs / 4);

/** Three attentions of three heads each, mixed by a gate of the row. */
const mixed: Segment = {
  name: "mixed",
  inputs: [{ name: "x", dtype: "f32", width: realistic.hidden_size }],
  outputs: [{ name: "out", dtype: "f32", width: realistic.hidden_size }],
  weights: [{ name: "gate", shape: [3, realistic.hidden_size] }],
  ops: [
    { op: "matMul", x: "x", weight: "gate", out: "logits" },
    { op: "mixHeads", x: "x", logits: "logits", parts: 9, out: "out" },
  ],
};

const bits = (values: ArrayLike<number>): Uint32Array => new Uint32Array(Float32Array.from(values).buffer);

/** Rows `first .. first + count` of every output, as bits. */
function rowBits(outputs: Outputs, first: number, count: number): Record<string, string> {
  return Object.fromEntries(
    Object.entries(outputs).map(([name, { shape, data }]) => {
      const width = shape[1] ?? 1;
      return [name, bits(data.slice(first * width, (first + count) * width)).join()];
    }),
  );
}

const cut = (data: Float32Array, width: number, first: number, count: number) => ({
  shape: [count, width],
  data: data.slice(first * width, (first + count) * width),
});

/** Pieces of a length: sizes that sum to it. */
const partition = (length: number) =>
  fc.array(fc.integer({ min: 1, max: length }), { minLength: 1, maxLength: 12 }).map((sizes) => {
    const pieces: number[] = [];
    let left = length;
    for (const size of sizes) {
      if (left === 0) break;
      pieces.push(Math.min(size, left));
      left -= pieces.at(-1) as number;
    }
    if (left > 0) pieces.push(left);
    return pieces;
  });

/** Pieces of one join their left neighbour; a first piece of one takes its right one. */
const withoutOnes = (pieces: readonly number[]): number[] =>
  pieces.reduce<number[]>((merged, piece) => {
    const last = merged.at(-1);
    if (last !== undefined && (piece === 1 || last === 1)) merged[merged.length - 1] = last + piece;
    else merged.push(piece);
    return merged;
  }, []);

export function runBitContract(options: {
  readonly name: string;
  readonly make: (threads: number) => Promise<Backend>;
  /** Unset: f32 alone. */
  readonly kvTypes?: readonly KvType[];
}): void {
  const { kvTypes = ["f32"] } = options;
  describe(`bit contract: ${options.name}`, () => {
    const model = syntheticModel(realistic);
    const { program } = model;
    const { hidden } = program;
    let one: Backend;
    let two: Backend;
    before(async () => {
      [one, two] = [await options.make(1), await options.make(2)];
    });
    after(async () => {
      await one?.close();
      await two?.close();
    });

    const rowsOf = async (segment: Segment, form: CodecName, numRuns = runs): Promise<void> => {
      const weights = segment === model.expertSegment ? model.expert(0, 1, form) : model.weights(segment);
      const [a, b] = await Promise.all([one, two].map((backend) => backend.compile(segment, weights)));
      const x = randomTensor(1, [rowsMax, hidden]).data;
      const whole = await a!.run({ x: { shape: [rowsMax, hidden], data: x } });
      const want = Array.from({ length: rowsMax }, (_, row) => JSON.stringify(rowBits(whole, row, 1)));
      await fc.assert(
        fc.asyncProperty(partition(rowsMax), fc.boolean(), async (pieces, threads) => {
          let first = 0;
          for (const count of pieces) {
            const got = await (threads ? b! : a!).run({ x: cut(x, hidden, first, count) });
            for (let i = 0; i < count; i++) assert.equal(JSON.stringify(rowBits(got, i, 1)), want[first + i], `row ${first + i}`);
            first += count;
          }
        }),
        { numRuns },
      );
      await a!.dispose();
      await b!.dispose();
    };

    for (const [form, numRuns] of [
      ["f32", runs],
      ["q4_0", runs],
      ["iq4_nl", fewRuns],
    ] as const) {
      test(`expert, ${form}: any split of 256 rows, on 1 or 2 threads, gives the same bits`, () =>
        rowsOf(model.expertSegment, form, numRuns));
    }
    test("head: any split of 256 rows, on 1 or 2 threads, gives the same bits", () => rowsOf(program.head, "f32"));
    test("mixed attentions: any split of 256 rows, on 1 or 2 threads, gives the same bits", () => rowsOf(mixed, "f32", fewRuns));

    test("attention in groups has the bits of a call for each, with windows, sinks and values narrower than keys", async () => {
      const groups = [
        { firstSlot: 1, batch: 2, tokens: 1, past: Int32Array.of(5, 0) },
        { firstSlot: 0, batch: 1, tokens: 3, past: Int32Array.of(2) },
        { firstSlot: 3, batch: 1, tokens: 7, past: Int32Array.of(0) },
      ];
      for (const { segment, weights, kv } of attentionCases()) {
        const forms = Object.entries(weights).map(([name, { shape, data }]) => [name, { form: "f32" as const, shape, data }]);
        const program = await one.compile(segment, Object.fromEntries(forms));
        const spec = { ...kv!, layers: 1, slots: 4, context: 64 };
        const inputs = segment.inputs.map(({ name, width }, i) => [name, width, randomTensor(20 + i, [12, width]).data] as const);
        const call = async (cache: KvCache, first: number, rows: number, of: readonly KvGroup[]) =>
          program.run(Object.fromEntries(inputs.map(([name, width, data]) => [name, cut(data, width, first, rows)])), {
            cache,
            groups: of,
          });
        const [whole, parts] = [await one.createKv(spec), await one.createKv(spec)];
        const together = rowBits(await call(whole, 0, 12, groups), 0, 12).out;
        const apart: (string | undefined)[] = [];
        let first = 0;
        for (const group of groups) {
          const rows = group.batch * group.tokens;
          apart.push(rowBits(await call(parts, first, rows, [group]), 0, rows).out);
          first += rows;
        }
        assert.equal(together, apart.join());
        await program.dispose();
        for (const cache of [whole, parts]) await cache.dispose();
      }
    });

    for (const type of kvTypes)
      describe(`block, KV of ${type}`, () => {
        const block = model.blocks[0]!;
        const slots = 4;
        let sides: { program: Compiled; kv: KvCache }[];
        before(async () => {
          sides = [];
          for (const backend of [one, two]) {
            sides.push({
              program: await backend.compile(block, model.weights(block)),
              kv: await backend.createKv({ ...kvOf(program), slots, context: contextMax, type }),
            });
          }
        });
        after(async () => {
          for (const side of sides ?? []) {
            await side.program.dispose();
            await side.kv.dispose();
          }
        });
        const x = randomTensor(2, [contextMax, hidden]).data;
        const prefill = (side: { program: Compiled; kv: KvCache }, slot: number, first: number, count: number) =>
          side.program.run(
            { x: cut(x, hidden, first, count) },
            { cache: side.kv, groups: [{ firstSlot: slot, batch: 1, tokens: count, past: Int32Array.of(first) }] },
          );

        test("a prefill in any chunks, in any slot, on 1 or 2 threads, gives the bits of one prefill", async () => {
          const length = 80;
          const whole = await prefill(sides[0]!, 0, 0, length);
          const want = Array.from({ length }, (_, row) => JSON.stringify(rowBits(whole, row, 1)));
          await fc.assert(
            fc.asyncProperty(
              // A chunk of one token is a decode step. Where its bits are its own, chunks here have two or more.
              partition(length).map((pieces) => (one.prefillEqualsDecode ? pieces : withoutOnes(pieces))),
              fc.integer({ min: 0, max: slots - 1 }),
              fc.integer({ min: 0, max: 1 }),
              async (pieces, slot, side) => {
                let first = 0;
                for (const count of pieces) {
                  const got = await prefill(sides[side]!, slot, first, count);
                  for (let i = 0; i < count; i++) assert.equal(JSON.stringify(rowBits(got, i, 1)), want[first + i], `row ${first + i}`);
                  first += count;
                }
              },
            ),
            { numRuns: type === "f32" ? runs : fewRuns },
          );
        });

        test("rows of a call with several groups have the bits that they have alone, wherever the groups lie", async () => {
          const group = fc.record({ past: fc.integer({ min: 1, max: contextMax - 24 }), tokens: fc.integer({ min: 1, max: 24 }) });
          const groups = fc.array(group, { minLength: 2, maxLength: slots });
          await fc.assert(
            fc.asyncProperty(groups, fc.integer({ min: 0, max: 1 }), fc.boolean(), async (shapes, side, turned) => {
              const alone: string[] = [];
              const data: number[] = [];
              for (const { past, tokens } of shapes) {
                await prefill(sides[0]!, 0, 0, past);
                const own = await prefill(sides[0]!, 0, past, tokens);
                for (let i = 0; i < tokens; i++) alone.push(JSON.stringify(rowBits(own, i, 1)));
                data.push(...x.subarray(past * hidden, (past + tokens) * hidden));
              }
              const mates = sides[side]!;
              const slotOf = (i: number): number => (turned ? shapes.length - 1 - i : i);
              for (const [i, { past }] of shapes.entries()) await prefill(mates, slotOf(i), 0, past);
              const together = await mates.program.run(
                { x: { shape: [alone.length, hidden], data: Float32Array.from(data) } },
                {
                  cache: mates.kv,
                  groups: shapes.map(({ past, tokens }, i) => ({ firstSlot: slotOf(i), batch: 1, tokens, past: Int32Array.of(past) })),
                },
              );
              for (const [row, want] of alone.entries()) assert.equal(JSON.stringify(rowBits(together, row, 1)), want, `row ${row}`);
            }),
            { numRuns: type === "f32" ? runs : fewRuns },
          );
        });

        test("a decode step gives the same bits alone and among any mates with any pasts, in any slot", async () => {
          const steps = fc.array(fc.integer({ min: 1, max: contextMax - 2 }), { minLength: slots, maxLength: slots });
          await fc.assert(
            fc.asyncProperty(steps, fc.integer({ min: 0, max: 1 }), async (pasts, side) => {
              const alone: string[] = [];
              for (const past of pasts) {
                await prefill(sides[0]!, 0, 0, past);
                alone.push(JSON.stringify(rowBits(await prefill(sides[0]!, 0, past, 1), 0, 1)));
              }
              const mates = sides[side]!;
              for (const [slot, past] of pasts.entries()) await prefill(mates, slot, 0, past);
              const data = new Float32Array(slots * hidden);
              for (const [slot, past] of pasts.entries()) data.set(x.subarray(past * hidden, (past + 1) * hidden), slot * hidden);
              const together = await mates.program.run(
                { x: { shape: [slots, hidden], data } },
                { cache: mates.kv, groups: [{ firstSlot: 0, batch: slots, tokens: 1, past: Int32Array.from(pasts) }] },
              );
              for (const slot of pasts.keys()) assert.equal(JSON.stringify(rowBits(together, slot, 1)), alone[slot], `slot ${slot}`);
            }),
            { numRuns: type === "f32" ? runs : fewRuns },
          );
        });
      });
  });
}
