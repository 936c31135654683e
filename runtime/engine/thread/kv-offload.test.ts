// Host memory for blocks: its bound, the part of the time that copies take, and what is dropped.
import assert from "node:assert/strict";
import { test } from "node:test";
import { KvOffload } from "./kv-offload.ts";

const positionBytes = 10;
const block = (at: number) => ({ id: `${at}`, from: 64 * at, to: 64 * (at + 1) });

function world(bytes: number) {
  const clock = { ms: 0 };
  const told: string[] = [];
  const offload = new KvOffload({ bytes, positionBytes, now: () => clock.ms, onKept: ({ id }) => told.push(id) });
  const copied: string[] = [];
  /** Copies that take a millisecond each, as far as it is their turn. */
  const copy = (isBusy: boolean): void => {
    for (let next = offload.next(isBusy); next !== undefined; next = offload.next(isBusy)) {
      const { id } = next;
      offload.copy(next, () => {
        clock.ms += 1;
        return id === "gone" ? undefined : new Uint8Array(64 * positionBytes);
      });
      copied.push(id);
    }
  };
  return { clock, offload, copied, copy, told };
}

test("memory holds whole blocks within its bound, the last ones used, and less than one is refused by name", () => {
  const { offload, copy, told } = world(2.5 * 64 * positionBytes);
  offload.left([0, 1, 2].map(block));
  copy(false);
  assert.deepEqual(told, ["2", "1", "0"], "the end of a text is evicted first");
  assert.deepEqual(
    [0, 1, 2].map((at) => offload.has(`${at}`)),
    [true, true, false],
  );
  assert.equal(offload.stats.heldBytes, 2 * 64 * positionBytes);
  assert.equal(offload.read(block(1))?.byteLength, 64 * positionBytes);
  assert.equal(offload.read({ ...block(1), from: 80 }), undefined, "another range");
  assert.throws(() => world(64 * positionBytes - 1), {
    code: "KvOffloadTooSmall",
    message: /spec\.runtime\.kvOffload\.memory .* raise it/,
  });
});

test("copies take a sixteenth of the time while requests run, and all of it while none do", () => {
  const { clock, offload, copied, copy } = world(1e6);
  offload.left(Array.from({ length: 40 }, (_, at) => block(at)));
  for (const end = clock.ms + 160; clock.ms < end; clock.ms += 1) copy(true);
  assert.ok(copied.length >= 9 && copied.length <= 11, `${copied.length} in 160 ms`);
  copy(false);
  assert.equal(copied.length, 40);
});

test("what was evicted before its turn, or is too much to wait, is dropped and counted; what is held is not copied again", () => {
  const { offload, copied, copy } = world(1e7);
  offload.left([{ ...block(1), id: "gone" }]);
  copy(false);
  assert.equal(offload.stats.dropped, 1);
  offload.left(Array.from({ length: 5_000 }, (_, at) => block(at)));
  assert.equal(offload.stats.dropped, 1 + 5_000 - 4_096);
  copy(false);
  offload.left([block(3), block(4)]);
  copy(false);
  assert.equal(copied.length, 1 + 4_096);
});
