// Collectives over 500 random placements of experts whole and cut into slices, which have primaries of their own: copies have the primary's bits,
// sums are folds over micro-batches, one is the other's adjoint, and bytes are those of the laws.
import assert from "node:assert/strict";
import { test } from "node:test";
import { gatherBytes, movedShare, reduceBytes } from "../../../test/kit/planner/collective-bytes.ts";
import { placements, type RandomPlacement } from "../../../test/kit/planner/random-placements.ts";
import { gaussian } from "../../kernels/random.ts";
import { chunkIn, expertOf } from "../../placement/training/chunks.ts";
import type { Edges } from "../../placement/training/collectives.ts";
import { addAll, gather, gatherAll, reduce } from "./collectives.ts";
import { Loopback } from "./loopback.ts";

const stamp = { world: 1, step: 1, plan: "a" };
/** Floats of an expert, and pieces of a chunk. */
const [floats, pieces] = [24, 3];
/** Of each number of slices, placements and the bytes of a chunk. */
const sliced = [1, 2, 4].map((slices) => ({ slices, cases: placements(500, slices), bytes: (4 * floats) / slices }));

type Chunks = Map<number, Float32Array>;

const everyRank = <T>(ranks: number, run: (rank: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: ranks }, (_, rank) => run(rank)));

const unicast: Edges = (ranks) => ranks.slice(1).map((to) => ({ from: ranks[0]!, to, after: -1 }));

/** Chunks that each rank has once copies have come. */
async function gathered(given: RandomPlacement, x: readonly Float32Array[], edges?: Edges) {
  const hub = new Loopback(given.ranks);
  const held = await everyRank(given.ranks, async (rank): Promise<Chunks> => {
    const own = given.hosts.flatMap((row, chunk) => (row.includes(rank) ? [chunk] : []));
    const has = (chunk: number): boolean => given.primaries[chunk] === rank;
    const memory: Chunks = new Map(own.map((chunk) => [chunk, has(chunk) ? x[chunk]!.slice() : new Float32Array(x[chunk]!.length)]));
    const common = { transport: hub.transport(rank), stamp, layer: 0, pieces, what: "copies" };
    await gather({ ...common, placement: given, ...(edges && { edges }), memory: (chunk) => memory.get(chunk)! });
    return memory;
  });
  return { held, traffic: Array.from({ length: given.ranks }, (_, rank) => hub.takeTraffic(rank, "copies")) };
}

/** Every chunk's part of what `of` says of its expert. */
const cut = ({ primaries, slices }: RandomPlacement, of: (expert: number) => Float32Array): Float32Array[] =>
  primaries.map((_, chunk) => chunkIn(of(expertOf(chunk, slices)), chunk, slices));

/** What primaries have of micro-batches before. */
const before = (given: RandomPlacement, carried: boolean): Float32Array[] =>
  cut(given, (expert) => (carried ? gaussian(9 + expert, floats) : new Float32Array(floats)));

/** Sums at the primaries of what micro-batches have, added to what they have of micro-batches before. */
async function reduced(given: RandomPlacement, partials: readonly (readonly Float32Array[])[], carried = false) {
  const hub = new Loopback(given.ranks);
  const sums = await everyRank(given.ranks, async (rank): Promise<Chunks> => {
    const own = given.primaries.flatMap((primary, chunk) => (primary === rank ? [chunk] : []));
    const sums = before(given, carried);
    const memory: Chunks = new Map(own.map((chunk) => [chunk, sums[chunk]!]));
    await reduce({
      ...{ transport: hub.transport(rank), stamp, layer: 0, pieces },
      ...given,
      carried,
      memory: (chunk) => memory.get(chunk)!,
      partials(chunk) {
        const run = given.blocks[chunk]!.find(({ host }) => host === rank)!;
        return partials[chunk]!.slice(run.from, run.to);
      },
    });
    return memory;
  });
  return { sums, received: Array.from({ length: given.ranks }, (_, rank) => hub.takeTraffic(rank, "sums").received) };
}

const chunksOf = (given: RandomPlacement, seed: number) => cut(given, (expert) => gaussian(seed + expert, floats));

/** partials[chunk][microBatch]; micro-batches without rows have zeros. */
function partialsOf(given: RandomPlacement): Float32Array[][] {
  const { primaries, rows } = given;
  const gradient = (expert: number, microBatch: number): Float32Array =>
    rows[microBatch]![expert]! > 0 ? gaussian(100 * expert + microBatch, floats) : new Float32Array(floats);
  const microBatches = rows.map((_, microBatch) => cut(given, (expert) => gradient(expert, microBatch)));
  return primaries.map((_, chunk) => microBatches.map((chunks) => chunks[chunk]!));
}

const total = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const product = (a: Float32Array, b: Float32Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);

for (const { slices, cases, bytes } of sliced) {
  const of = `${slices} ${slices > 1 ? "slices" : "slice"} an expert`;

  test(`spAG, ${of}: hosts end with the primary's bits, in the bytes of the law; no rank moves more than lambda x the layer`, async () => {
    for (const given of cases) {
      const x = chunksOf(given, 1);
      const { held, traffic } = await gathered(given, x);
      for (const memory of held) for (const [chunk, copy] of memory) assert.deepEqual(copy, x[chunk]);
      assert.equal(total(traffic.map(({ received }) => received)), gatherBytes(given.hosts, bytes));
      const most = 1.02 * movedShare(given.hosts) * given.hosts.length * bytes;
      for (const { sent, received } of traffic) assert.ok(Math.max(sent, received) <= most);
    }
  });

  test(`the same bound fails by unicast, ${of}`, async () => {
    let beyond = 0;
    for (const given of cases.slice(0, 100)) {
      const { traffic } = await gathered(given, chunksOf(given, 1), unicast);
      const most = 1.02 * movedShare(given.hosts) * given.hosts.length * bytes;
      beyond += Number(traffic.some(({ sent }) => sent > most));
    }
    assert.ok(beyond > 10, `${beyond} of 100`);
  });

  test(`spRS, ${of}: primaries end with micro-batches added in their order, in the bytes of the law; sums by host have other bits`, async () => {
    let differ = 0;
    for (const [i, given] of cases.entries()) {
      const partials = partialsOf(given);
      const carried = i % 2 === 1;
      const { sums, received } = await reduced(given, partials, carried);
      const [wanted, byHosts] = [before(given, carried), before(given, carried)];
      for (const memory of sums) {
        for (const [chunk, sum] of memory) {
          const [want, byHost] = [wanted[chunk]!, byHosts[chunk]!];
          addAll(want, partials[chunk]!);
          assert.deepEqual(sum, want);
          for (const { from, to } of given.blocks[chunk]!) {
            const own = new Float32Array(want.length);
            addAll(own, partials[chunk]!.slice(from, to));
            addAll(byHost, [own]);
          }
          differ += Number(byHost.some((value, i) => value !== want[i]));
        }
      }
      assert.equal(total(received), reduceBytes({ ...given, carried }, bytes));
    }
    assert.ok(differ > 500, `${differ} chunks`);
  });

  test(`<spAG(x), y> = <x, spRS(y)>, ${of}`, async () => {
    for (const given of cases) {
      const [x, partials] = [chunksOf(given, 7), partialsOf(given)];
      const { held } = await gathered(given, x);
      const { sums } = await reduced(given, partials);
      let [left, right, size] = [0, 0, 1];
      for (const [chunk, runs] of given.blocks.entries()) {
        for (const { host, from, to } of runs)
          for (const partial of partials[chunk]!.slice(from, to)) {
            const part = product(held[host]!.get(chunk)!, partial);
            left += part;
            size += Math.abs(part);
          }
        right += product(x[chunk]!, sums[given.primaries[chunk]!]!.get(chunk)!);
      }
      assert.ok(Math.abs(left - right) <= 1e-6 * size, `${left} and ${right}`);
    }
  });
}

test("a frame of another plan, step or world is refused by name, and one rank's end is everybody's", async () => {
  const name = { what: "counts", layer: 3, lengthFrom: () => 1 };
  for (const [field, other] of Object.entries({ world: 2, step: 2, plan: "b" })) {
    const hub = new Loopback(2);
    const one = gatherAll(hub.transport(0), stamp, name, Int32Array.of(1));
    const two = gatherAll(hub.transport(1), { ...stamp, [field]: other }, name, Int32Array.of(2));
    const message = new RegExp(`sent counts of layer 3 with ${field} ${other}, this rank has`);
    await assert.rejects(one, { code: "PlanMismatch", message });
    await assert.rejects(two, { code: "PlanMismatch" });
  }
  const lengths = new Loopback(2);
  const short = gatherAll(lengths.transport(0), stamp, name, Int32Array.of(1));
  const long = gatherAll(lengths.transport(1), stamp, name, Int32Array.of(2, 3));
  await assert.rejects(short, { code: "PlanMismatch", message: /rank 1 sent counts of layer 3 with 2 numbers, this rank waits for 1/ });
  await long;
  const hub = new Loopback(2);
  const waiting = gatherAll(hub.transport(0), stamp, name, Int32Array.of(1));
  hub.end(new Error("rank 1 is gone"));
  await assert.rejects(waiting, /rank 1 is gone/);
  await assert.rejects(gatherAll(hub.transport(1), stamp, name, Int32Array.of(1)), /rank 1 is gone/);
});
