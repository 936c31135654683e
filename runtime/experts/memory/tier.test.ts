// Tiers are asked in order until one has the expert; an abort ends the search between two of them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { type FetchOutcome, storeTier } from "./shard-client.ts";
import { SharedTime } from "./shared-time.ts";
import { inOrder, orElse, type Tier, type TierRequest } from "./tier.ts";

const request = (signal = new AbortController().signal): TierRequest => ({
  layer: 1,
  expert: 2,
  sources: [],
  bytesPerSecond: 0,
  rate: 0,
  signal,
});
const unit = Uint8Array.of(7);

function asked() {
  const names: string[] = [];
  const tier = (name: string, answer: () => ReturnType<Tier["read"]>): Tier => ({
    read: ({ layer, expert }) => {
      names.push(`${name} ${layer}/${expert}`);
      return answer();
    },
  });
  return { names, tier };
}
const nothing = async () => undefined;

test("the first tier that has the expert gives it, and none below it is asked", async () => {
  const { names, tier } = asked();
  const has = async () => ({ unit, source: 3, seconds: 0 });
  const tiers = inOrder([tier("peers", nothing), tier("host memory", has), tier("store", has)]);
  assert.deepEqual(await tiers.read(request()), { unit, source: 3, seconds: 0 });
  assert.deepEqual(names, ["peers 1/2", "host memory 1/2"]);
});

test("what no tier has is an error that names the expert; an error of a tier ends the search", async () => {
  const { names, tier } = asked();
  const broken = async () => Promise.reject(new AppError("rotten", { code: "CorruptShard" }));
  await assert.rejects(inOrder([tier("a", nothing), tier("b", nothing)]).read(request()), (error: any) => {
    return error.code === "Unavailable" && /expert 1\/2/.test(error.message);
  });
  await assert.rejects(inOrder([tier("c", broken), tier("d", nothing)]).read(request()), { code: "CorruptShard" });
  assert.deepEqual(names, ["a 1/2", "b 1/2", "c 1/2"]);
});

test("a tier that fails is asked once, and its failure is told where the other has nothing", async () => {
  const { names, tier } = asked();
  const broken = async () => Promise.reject(new AppError("rotten", { code: "CorruptShard" }));
  const has = async () => ({ unit, source: 3, seconds: 0 });
  assert.equal((await inOrder([orElse(tier("disk", broken), tier("peers", has))]).read(request())).source, 3);
  await assert.rejects(inOrder([orElse(tier("disk", broken), tier("peers", nothing))]).read(request()), { code: "CorruptShard" });
  assert.deepEqual(names, ["disk 1/2", "peers 1/2", "disk 1/2", "peers 1/2"]);
});

test("an abort while one tier is asked keeps the next from being asked", async () => {
  const { names, tier } = asked();
  const abort = new AbortController();
  const leaving = async () => {
    abort.abort(new AppError("another plan", { code: "Aborted" }));
    return undefined;
  };
  await assert.rejects(inOrder([tier("peers", leaving), tier("store", nothing)]).read(request(abort.signal)), { code: "Aborted" });
  assert.deepEqual(names, ["peers 1/2"]);
});

test("the store reports what it gave and what it could not", async () => {
  const outcomes: FetchOutcome[] = [];
  const reads = { read: async (layer: number) => (layer === 1 ? unit : Promise.reject(new AppError("rotten", { code: "CorruptShard" }))) };
  const tier = storeTier(reads, { time: new SharedTime(() => performance.now()), report: (outcome) => void outcomes.push(outcome) });
  assert.equal((await tier.read(request()))?.source, "store");
  await assert.rejects(tier.read({ ...request(), layer: 0 }), { code: "CorruptShard" });
  assert.deepEqual(
    outcomes.map(({ source, result, bytes }) => `${source} ${result} ${bytes}`),
    ["store ok 1", "store corrupt 0"],
  );
});
