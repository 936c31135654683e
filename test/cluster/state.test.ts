// State files and process records of local clusters.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { withLock } from "./lock.ts";
import { isAlive, startTimeOf } from "./processes.ts";
import { clusterStates, emptyState, namesOf, parseState, readState, removeFolder, writeState } from "./state.ts";

describe("cluster state", () => {
  const old = process.env.ENODIA_STATE;
  let root: string;
  before(() => {
    root = mkdtempSync(join(tmpdir(), "enodia-state-"));
    process.env.ENODIA_STATE = root;
  });
  after(() => {
    if (old === undefined) delete process.env.ENODIA_STATE;
    else process.env.ENODIA_STATE = old;
    rmSync(root, { recursive: true, force: true });
  });

  test("what is written is read back, and leaves no unfinished file", () => {
    const state = emptyState("one", 7);
    state.nodes.push({ index: 1, power: "on", link: "up", processes: [{ role: "init", pid: 5, startTime: "99" }] });
    writeState(state);
    assert.deepEqual(readState("one"), state);
    assert.deepEqual(readdirSync(join(root, "one")), ["state.json"]);
    assert.equal(namesOf(state).hostAddress, "10.250.7.1");
    assert.deepEqual(
      clusterStates().map((one) => one.name),
      ["one"],
    );
    removeFolder("one");
    assert.equal(readState("one"), undefined);
  });

  for (const [what, text] of Object.entries({ "half a file": '{"version":1,', "another version": '{"version":2}', "no object": "null" })) {
    test(`${what} is refused by name instead of being torn down by guess`, () => {
      assert.throws(() => parseState(text, "/x/state.json"), /\/x\/state\.json is not a cluster state of version 1/);
    });
  }

  test("a pid counts as alive only with the start time it was recorded with", () => {
    const startTime = startTimeOf(process.pid);
    assert.ok(startTime !== undefined && /^\d+$/.test(startTime));
    assert.ok(isAlive({ role: "self", pid: process.pid, startTime }));
    assert.ok(!isAlive({ role: "stranger", pid: process.pid, startTime: String(Number(startTime) - 1) }));
    assert.equal(startTimeOf(2 ** 22 + 1), undefined);
  });

  test("work on one cluster goes one at a time, and a failed piece lets the next one in", async () => {
    const order: string[] = [];
    const piece = (label: string) =>
      withLock("one", async () => {
        order.push(`${label} in`);
        await new Promise((resolve) => setTimeout(resolve, 30));
        order.push(`${label} out`);
        if (label === "a") throw new Error("a failed");
      });
    const [a, b] = await Promise.allSettled([piece("a"), piece("b")]);
    assert.equal(a.status, "rejected");
    assert.equal(b.status, "fulfilled");
    assert.deepEqual(order, ["a in", "a out", "b in", "b out"]);
  });
});
