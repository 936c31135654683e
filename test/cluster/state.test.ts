// State files and process records of local clusters.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { withLock } from "./lock.ts";
import { isAlive, isRunning, startTimeOf } from "./processes.ts";
import { clusterStates, emptyState, namesOf, parseState, readState, refuseForeignFolder, removeFolder, writeState } from "./state.ts";
import { refuseForeignThings, refuseMounts } from "./teardown.ts";

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

  const altered = (change: object) => JSON.stringify({ ...emptyState("x", 3), ...change });
  const node = { index: 1, power: "on", link: "up", processes: [] };
  const wrong: Record<string, string> = {
    "half a file": '{"version":1,',
    "another version": '{"version":2}',
    "no object": "null",
    // Pid -1 is every process of the machine; without a start time it would even count as alive.
    "a process -1": altered({ control: [{ role: "etcd", pid: -1, startTime: "5" }] }),
    "a process 1": altered({ nodes: [{ ...node, processes: [{ role: "init", pid: 1, startTime: "5" }] }] }),
    "a process without a start time": altered({ control: [{ role: "etcd", pid: 77 }] }),
    "a node beyond the last": altered({ nodes: [{ ...node, index: 4711 }] }),
    "a slot beyond the last": altered({ slot: 240 }),
    "a kernel setting outside of /proc/sys": altered({ host: { settings: { "../../etc/passwd": "" }, folders: [] } }),
  };
  for (const [what, text] of Object.entries(wrong)) {
    test(`${what} is refused by name instead of being torn down by guess`, () => {
      assert.throws(() => parseState(text, "/x/state.json", "x"), /\/x\/state\.json is not a cluster state of version 1/);
    });
  }

  test("the state of one cluster, copied to another's folder, does not take the first one down", () => {
    for (const other of ["first", "../../etc"]) {
      writeState(emptyState("second", 7));
      writeFileSync(join(root, "second", "state.json"), JSON.stringify({ ...emptyState("second", 7), name: other }));
      assert.throws(() => readState("second"), new RegExp(`is the state of the cluster "${other}", not of "second"`));
    }
    removeFolder("second");
  });

  test("a folder that is no cluster's is not taken as one, and only a cluster's is removed", () => {
    mkdirSync(join(root, "projects", "src"), { recursive: true });
    assert.throws(() => refuseForeignFolder("projects"), /projects holds "src" and no cluster state.*ENODIA_STATE/);
    assert.throws(() => removeFolder("."), /cluster name/);
    assert.throws(() => removeFolder("../x"), /cluster name/);
    assert.ok(existsSync(join(root, "projects", "src")));
    rmSync(join(root, "projects"), { recursive: true });
    refuseForeignFolder("projects");
    mkdirSync(join(root, "died"));
    writeFileSync(join(root, "died", ".state.json.4711"), ""); // by a run that died before it had a state
    refuseForeignFolder("died");
    removeFolder("died");
  });

  test("a cluster that another state folder knows, and mounts that stayed, are named and left alone", () => {
    assert.throws(
      () => refuseForeignThings("one", ["folder /x/one", "cgroup enodia-one"]),
      /^ClusterError: cgroup enodia-one: a cluster "one"/,
    );
    refuseForeignThings("one", ["folder /x/one"]);
    assert.throws(() => refuseMounts(["/x/one/nodes/one-1/data"]), /\/x\/one\/nodes\/one-1\/data cannot be unmounted/);
    refuseMounts([]);
  });

  test("a pid counts as alive only with the start time it was recorded with", () => {
    const startTime = startTimeOf(process.pid);
    assert.ok(startTime !== undefined && /^\d+$/.test(startTime));
    assert.ok(isAlive({ role: "self", pid: process.pid, startTime }));
    assert.ok(!isAlive({ role: "stranger", pid: process.pid, startTime: String(Number(startTime) - 1) }));
    assert.equal(startTimeOf(2 ** 22 + 1), undefined);
  });

  test("a cluster that runs is told from one that died, so that whoever cleans up leaves the first alone", () => {
    const startTime = startTimeOf(process.pid) ?? "";
    writeState({ ...emptyState("runs", 1), control: [{ role: "etcd", pid: process.pid, startTime }] });
    writeState({ ...emptyState("died", 2), control: [{ role: "etcd", pid: process.pid, startTime: "1" }] });
    assert.deepEqual(["runs", "died", "never"].map(isRunning), [true, false, false]);
    for (const name of ["runs", "died"]) removeFolder(name);
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
