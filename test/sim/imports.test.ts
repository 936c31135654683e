// The simulation is of production code: the modules that decide are among what it imports, and what it has instead of production code
// is clock, network, store, Kubernetes and what the engine computes, file by file.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { test } from "node:test";

const root = resolve(import.meta.dirname, "../..");

/** Specifiers of imports that exist when the code runs: those of types alone say nothing. */
function importsOf(file: string): string[] {
  const text = readFileSync(resolve(root, file), "utf8").replace(/^\s*\/\/.*$/gm, "");
  const statements = text.matchAll(/(?:^|\n)\s*(?:import|export)\s(?!type\s)([^;"]*?)from\s+"([^"]+)"|(?:^|\n)import\s+"([^"]+)"/g);
  return [...statements].flatMap(([, names = "", from, bare]) => {
    const inBraces = /\{([^}]*)\}/.exec(names)?.[1] ?? "";
    const onlyTypes =
      /^\s*\{[^}]*\}\s*$/.test(names) && inBraces.split(",").every((name) => name.trim() === "" || name.trim().startsWith("type "));
    return onlyTypes ? [] : [from ?? bare ?? ""];
  });
}

function reached(start: string): Set<string> {
  const seen = new Set<string>();
  const queue = [start];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    for (const specifier of importsOf(file))
      if (specifier.startsWith(".")) queue.push(relative(root, resolve(root, dirname(file), specifier)));
  }
  return seen;
}

/** The production files that take part in placing, moving and serving experts. */
const production = [
  ...[
    ...["loop", "observe", "members", "load/load-state"],
    ...["session", "links", "drains", "load-messages", "intake"].map((name) => `links/${name}`),
    ...["protocol", "plan-rollout", "staging", "placement", "plan-object"].map((name) => `rollout/${name}`),
    ...["recover", "first", "repair", "drain", "move-primaries", "fill", "protect", "balance"].map((name) => `intents/${name}`),
    "status/placement-status",
  ].map((name) => `operator/rebalance/${name}.ts`),
  ...["replan", "load/windows", "repair", "expert-replicas", "validate", "index", "worth"].map((name) => `operator/planner/${name}.ts`),
  ...["worker-plane", "experts", "plan-keeper", "control", "worker-telemetry", "give-way", "plan-state"].map(
    (name) => `runtime/worker/${name}.ts`,
  ),
  ...["materializer", "resident-set", "shard-client", "shard-server", "transfer-pace"].map((name) => `runtime/experts/memory/${name}.ts`),
  ...["peers", "heartbeats", "on-demand", "peer-directory"].map((name) => `runtime/experts/${name}.ts`),
  ...["outbound", "frame-run", "attempts", "rows-server", "peer-connections"].map((name) => `runtime/engine/rows/${name}.ts`),
  ...["expert-table", "step"].map((name) => `runtime/engine/pass/${name}.ts`),
  ...["dispatch", "diff", "receive", "split", "frames/pairs", "frames/frames"].map((name) => `runtime/placement/${name}.ts`),
  ...["net/mapping", "net/signal", "net/grpc", "net/load-signature", "weights/store-reader", "weights/digest"].map(
    (name) => `runtime/${name}.ts`,
  ),
];

/** Files of test/sim that stand for something of production, by what they stand for; the others set up, strike and watch. */
const replacements: Readonly<Record<string, readonly string[]>> = {
  clock: ["clock.ts", "process-time.ts"],
  network: ["wire.ts", "calls.ts", "bus.ts", "training-net.ts"],
  store: ["store.ts"],
  Kubernetes: ["kube.ts", "worker.ts", "kv-rank.ts", "training-pods.ts"],
  "engine's computing": ["engine.ts", "kv-engine.ts", "load.ts", "model.ts"],
  "passes of a model that is trained": ["training-model.ts"],
};
const around = [
  "cluster.ts",
  "converged.ts",
  "troubles.ts",
  "oracle.ts",
  "faults.ts",
  "kv.ts",
  "kv-plants.ts",
  "leaders.ts",
  "plants.ts",
  "search.ts",
  "training.ts",
  "training-plants.ts",
];

test("the simulated cluster imports the production modules that decide", () => {
  const seen = reached("test/sim/cluster.ts");
  assert.deepEqual(
    production.filter((file) => !seen.has(file)),
    [],
  );
});

test("the simulation of moved keys and values imports the production modules that move them", () => {
  const moving = [
    ...["worker-plane", "kv-fetch", "kv-source", "leaving", "inference", "kept-answers"].map((name) => `worker/${name}`),
    ...["thread/kv-transfers", "thread/interleaver", "thread/requests", "schedule/kv-ledger", "schedule/batch"].map(
      (name) => `engine/${name}`,
    ),
    ...["failover", "worker-pool", "choose-worker", "life-watch"].map((name) => `gateway/routing/${name}`),
  ];
  const seen = reached("test/sim/kv.ts");
  assert.deepEqual(
    moving.filter((file) => !seen.has(`runtime/${file}.ts`)),
    [],
  );
});

test("a type's import does not count as one of its module", () => {
  assert.ok(!reached("test/sim/store.ts").has("test/sim/clock.ts"), "store.ts names the clock's type only");
  assert.ok(reached("test/sim/store.ts").has("runtime/weights/store-reader.ts"));
});

test("test/sim replaces clock, network, store, Kubernetes and what computes, and nothing else", () => {
  const files = globSync("*.ts", { cwd: import.meta.dirname }).filter((file) => !file.endsWith(".test.ts"));
  assert.deepEqual(files.sort(), [...Object.values(replacements).flat(), ...around].sort());
});

test("what a replacement implements is a port of production, named in its file", () => {
  const ports: Readonly<Record<string, string>> = {
    "clock.ts": "implements Clock",
    "wire.ts": "): Network {",
    "bus.ts": "): LoadBus {",
    "store.ts": "): ModelStore {",
    "kube.ts": "): PlacementStore {",
    "engine.ts": "implements Engine",
  };
  for (const [file, port] of Object.entries(ports))
    assert.ok(readFileSync(resolve(import.meta.dirname, file), "utf8").includes(port), `${file}: ${port}`);
});
