// Reads of a store that answers late, not at all, or with an error.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { VirtualClock } from "../../../test/sim/clock.ts";
import { StoreReads } from "./store-reads.ts";

/** A store whose reads end when told. */
function storeOf() {
  const open = new Map<string, { resolve(bytes: Uint8Array): void; reject(error: Error): void }>();
  let begun = 0;
  const readUnit = (layer: number, expert: number) => {
    begun++;
    return new Promise<Uint8Array>((resolve, reject) => void open.set(`${layer}.${expert}`, { resolve, reject }));
  };
  return { open, begun: () => begun, reads: new StoreReads({ readUnit }, "f32") };
}

const forever = new AbortController().signal;
const codeOf = (outcome: Promise<unknown>) =>
  outcome.then(
    () => "ok",
    (error) => AppError.from(error).code,
  );

test("a caller of a store that does not answer leaves with its signal, or after a while; a later one gets what was read", async () => {
  const clock = new VirtualClock();
  const { open, begun, reads } = storeOf();
  const abort = new AbortController();
  const outcomes: string[] = [];
  clock.after(0, () => {
    void codeOf(reads.read(0, 1, abort.signal)).then((code) => outcomes.push(code));
    void codeOf(reads.read(0, 1, forever)).then((code) => outcomes.push(code));
  });
  clock.after(1_000, () => abort.abort(new AppError("another plan", { code: "Aborted" })));
  await clock.run(2_000);
  assert.deepEqual(outcomes, ["Aborted"]);
  await clock.run(60_000);
  assert.deepEqual(outcomes, ["Aborted", "Unavailable"]);
  let got: Uint8Array | undefined;
  clock.after(0, () => void reads.read(0, 1, forever).then((bytes) => (got = bytes)));
  clock.after(10, () => open.get("0.1")?.resolve(Uint8Array.of(7)));
  await clock.run(100);
  assert.deepEqual(got, Uint8Array.of(7));
  assert.equal(begun(), 1, "nobody asked the disk again");
});

test("a store that is stuck with some experts holds a bounded number of reads; when one ends, the next begins", async () => {
  const clock = new VirtualClock();
  const { open, begun, reads } = storeOf();
  const outcomes = new Map<number, string>();
  clock.after(0, () => {
    for (let expert = 0; expert < 6; expert++) void codeOf(reads.read(0, expert, forever)).then((code) => outcomes.set(expert, code));
  });
  clock.after(10, () => open.get("0.0")?.reject(new AppError("rotten", { code: "CorruptShard" })));
  await clock.run(1_000);
  assert.deepEqual([...outcomes], [[0, "CorruptShard"]]);
  assert.equal(begun(), 4);
  await clock.run(60_000);
  assert.ok([1, 2, 3, 4, 5].every((expert) => outcomes.get(expert) === "Unavailable"));
  assert.equal(begun(), 4);
});

test("two that ask for one expert at once get bytes of their own", async () => {
  const { open, reads } = storeOf();
  const both = [reads.read(0, 0, forever), reads.read(0, 0, forever)];
  await new Promise((resolve) => setImmediate(resolve));
  open.get("0.0")?.resolve(Uint8Array.of(1, 2));
  const [a, b] = await Promise.all(both);
  assert.notEqual(a?.buffer, b?.buffer);
  assert.deepEqual(a, b);
});
