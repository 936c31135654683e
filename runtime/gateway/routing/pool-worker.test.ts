// A worker of the pool alone: which ends of a call stop what its rank keeps.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Generation } from "./failover.ts";
import { type InferenceClient, stopKept } from "./pool-worker.ts";

const self = { deploymentUid: "uid", rank: 0, podUid: "p", bootId: "b" };

test("a call that ends stops its own request, also before its first event, unless it finished or its client may come back", () => {
  const stops = (stays: boolean, left: boolean, finished: boolean): unknown[] => {
    const sent: unknown[] = [];
    const kept = async ({ id, stop, digest }: Parameters<InferenceClient["kept"]>[0]) => void sent.push([id, stop, digest]);
    const keep = { id: "k", digest: Buffer.from("d"), note: Buffer.from(""), stays, isNew: true };
    const generation = { keep, signal: left ? AbortSignal.abort() : new AbortController().signal } as unknown as Generation;
    stopKept({ client: { kept } as unknown as InferenceClient }, { generation, finished }, self);
    return sent;
  };
  const stop = [["k", true, Buffer.from("d")]];
  assert.deepEqual([stops(false, true, false), stops(false, false, false), stops(true, false, false)], [stop, stop, stop]);
  assert.deepEqual([stops(true, true, false), stops(false, true, true)], [[], []]);
});
