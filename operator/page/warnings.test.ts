import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { recentMs } from "../views/findings/events.ts";
import { freshMs, namespacesMax, WarningReader } from "./warnings.ts";

const start = 1_700_000_000_000;
const item = (reason: string, ageMs: number) => ({
  metadata: { namespace: "ns" },
  involvedObject: { kind: "Pod", name: "a" },
  ...{ reason, message: "m", lastTimestamp: new Date(start - ageMs).toISOString() },
});

function made(read: (namespace: string) => AsyncIterable<unknown>) {
  const asked: string[] = [];
  const state = { now: start };
  const reader = new WarningReader({
    read: (namespace) => {
      asked.push(namespace);
      return read(namespace);
    },
    now: () => state.now,
  });
  return { reader, asked, state };
}

test("events are read once in a while, and say so until they are; old ones and what is no event are dropped", async () => {
  const { reader, asked, state } = made(async function* () {
    yield* [item("FailedMount", 1_000), item("FailedMount", recentMs + 1), "no event"];
  });
  assert.deepEqual(
    reader.of("ns").unread.map(({ what }) => what),
    ["events"],
  );
  await sleep(0);
  const { events, unread } = reader.of("ns");
  assert.deepEqual([events.map(({ reason }) => reason), unread, asked], [["FailedMount"], [], ["ns"]]);
  state.now += freshMs;
  assert.equal(reader.of("ns").events.length, 1, "the last answer holds while they are read anew");
  assert.equal(asked.length, 2);
});

test("what may not be read is said, and namespaces that are kept have a bound", async () => {
  const { reader, asked } = made(async function* () {
    yield item("BackOff", 0);
    throw new Error("events is forbidden");
  });
  reader.of("ns");
  await sleep(0);
  assert.match(reader.of("ns").unread[0]?.why ?? "", /forbidden/);
  for (let n = 0; n < namespacesMax; n++) reader.of(`other-${n}`);
  reader.of(`other-0`);
  assert.equal(asked.length, 1 + namespacesMax);
  reader.of("ns");
  assert.equal(asked.length, 2 + namespacesMax, "asked for longest ago");
});
