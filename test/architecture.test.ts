// The import law: which folder may import which, one importing folder per npm client, no cycles, small files.
// A row of `law` names a folder and everything it may import; anything else is a failure that names file and import.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";

const root = resolve(import.meta.dirname, "..");
const linesMax = 400;

const pure = ["crds/", "runtime/placement/"];
const kernels = [...pure, "runtime/kernels/"];
const models = [...kernels, "runtime/models/"];
const adapters = [...pure, "runtime/wire/", "runtime/observe/"];
const weights = [...models, "runtime/weights/"];
const engine = [...weights, "runtime/engine/"];
const experts = [...engine, ...adapters, "runtime/experts/peers.ts", "runtime/experts/signal.ts"];
const planner = [
  "operator/planner/decide.ts",
  "operator/planner/problem.ts",
  "operator/planner/policy.ts",
  "operator/planner/random.ts",
  ...pure,
];
const operator = [...pure, "operator/", "runtime/wire/", "runtime/observe/"];
/** Inside the rebalance plane. */
const plane = (...files: readonly string[]): string[] => files.map((file) => `operator/rebalance/${file}`);

/** folder (longest prefix wins) -> what else it may import; a folder with a row of its own is another room than the one around it. */
const law: Readonly<Record<string, readonly string[]>> = {
  "crds/": [],
  "runtime/placement/": pure,
  "runtime/kernels/": kernels,
  "runtime/models/": models,
  "runtime/engine/core/": models,
  "runtime/wire/": pure,
  "runtime/observe/": ["crds/"],
  "runtime/weights/": weights,
  "runtime/text/": ["crds/"],
  "runtime/backends/": [...kernels, "runtime/weights/codecs/"],
  "runtime/engine/": [...weights, "runtime/engine/core/", "runtime/backends/backend.ts", "runtime/backends/index.ts"],
  "runtime/experts/": experts,
  "runtime/experts/memory/": experts,
  "runtime/experts/dispatch/": [...experts, "runtime/experts/memory/"],
  "runtime/worker/": [...engine, ...adapters, "runtime/experts/"],
  "runtime/gateway/": [...adapters, "runtime/text/"],
  "runtime/tools/": [...weights, "runtime/backends/", "runtime/text/"],
  "runtime/main.ts": ["runtime/config.ts", "runtime/worker/worker.ts", "runtime/gateway/gateway.ts", "crds/", "package.json"],
  "runtime/config.ts": ["crds/"],
  "operator/planner/": [...pure, "operator/planner/"],
  "operator/planner/load/": planner,
  "operator/planner/search/": [...planner, "operator/planner/copies.ts"],
  "operator/planner/search/incremental/": [
    ...planner,
    "operator/planner/copies.ts",
    "operator/planner/search/ledger.ts",
    "operator/planner/search/layer-state.ts",
  ],
  "operator/planner/search/affinity/": planner,
  "operator/planner/policies/": [...planner, "operator/planner/search/", "operator/planner/repair.ts", "operator/planner/solver.ts"],
  "operator/planner/offline/": [...pure, "operator/planner/"],
  "operator/deployment/core/": pure,
  "operator/kube/": ["crds/", "runtime/observe/"],
  "operator/tls/": ["crds/"],
  "operator/dashboards/": ["crds/"],
  "operator/rebalance/": [
    ...[...adapters, "operator/planner/", "operator/kube/kube.ts", "operator/kube/workqueue.ts", "operator/deployment/ports.ts"],
    ...plane("links/", "intents/", "rollout/", "status/"),
  ],
  "operator/rebalance/links/": [
    ...[...pure, "runtime/wire/", "operator/planner/", "operator/kube/kube.ts", "operator/deployment/ports.ts"],
    ...plane("observed.ts", "ports.ts", "loop-ports.ts"),
  ],
  "operator/rebalance/rollout/": [
    ...[...pure, "operator/planner/index.ts", "operator/planner/policy.ts", "operator/planner/problem.ts"],
    ...["operator/kube/kube.ts", "operator/deployment/objects/context.ts"],
    ...plane("observed.ts", "ports.ts", "loop-ports.ts", "backoff.ts"),
    ...plane("links/links.ts", "links/load-picture.ts", "links/members.ts"),
  ],
  "operator/rebalance/intents/": [
    ...[...pure, "operator/planner/"],
    ...plane("observed.ts", "ports.ts", "loop-ports.ts", "backoff.ts", "links/load-picture.ts", "links/members.ts"),
    ...plane("rollout/placement.ts", "rollout/plan-object.ts", "rollout/proposal.ts", "status/decision-events.ts"),
  ],
  "operator/rebalance/status/": [
    ...[...pure, "runtime/observe/", "operator/kube/kube.ts", "operator/deployment/ports.ts"],
    ...["copies", "decide", "policy", "problem"].map((file) => `operator/planner/${file}.ts`),
    ...plane("observed.ts", "ports.ts", "backoff.ts", "links/members.ts", "rollout/plan-report.ts", "rollout/proposal.ts"),
  ],
  "operator/deployment/": operator,
  "operator/rbac.ts": ["crds/"],
  "operator/config.ts": ["crds/"],
  "operator/main.ts": [...operator, "package.json"],
  "operator/cli/": ["crds/", "operator/", "runtime/"],
};

/** Folders without clock, random, network or file system: they may not import node:* at all. */
const pureFolders = [
  "runtime/placement/",
  "runtime/kernels/",
  "runtime/models/",
  "runtime/engine/core/",
  "operator/planner/",
  "operator/deployment/core/",
];

/** npm package (prefix) -> the one folder that imports it. */
const clients: Readonly<Record<string, string>> = {
  "@kubernetes/client-node": "operator/kube/",
  "@grpc/grpc-js": "runtime/wire/",
  nats: "runtime/wire/",
  "@opentelemetry/": "runtime/observe/",
  pino: "runtime/observe/",
  webgpu: "runtime/backends/webgpu/",
  "onnxruntime-node": "runtime/backends/cpu/",
  "@hono/": "runtime/gateway/",
  hono: "runtime/gateway/",
  highs: "operator/planner/solver.ts",
  "@huggingface/tokenizers": "runtime/text/",
  "@huggingface/jinja": "runtime/text/",
  "@peculiar/x509": "operator/tls/",
  "@grafana/": "operator/dashboards/",
};

/** zod is free everywhere; protobuf messages are made with `create` wherever they are sent, and by the ONNX subset of the cpu backend. */
const free: Readonly<Record<string, readonly string[]>> = {
  zod: [""],
  yaml: ["crds/generate.ts"],
  "@bufbuild/protobuf": ["runtime/", "operator/rebalance/"],
};

const sources = globSync("{crds,operator,runtime}/**/*.ts", { cwd: root })
  .filter((file) => !file.endsWith(".test.ts") && !file.startsWith("runtime/wire/gen/"))
  .sort();

function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), "utf8").replace(/^\s*\/\/.*$/gm, "");
  const found = text.matchAll(/(?:^|\n)\s*(?:import|export)\s[^;]*?from\s+"([^"]+)"|import\(\s*"([^"]+)"\s*\)|(?:^|\n)import\s+"([^"]+)"/g);
  return [...found].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
}

const inside = (file: string, specifier: string): string => relative(root, resolve(root, dirname(file), specifier));
const longest = (file: string, prefixes: readonly string[]): string | undefined =>
  prefixes.filter((prefix) => file.startsWith(prefix)).sort((a, b) => b.length - a.length)[0];

/** The row of the law that a file comes under; files of one row may import each other. */
const roomOf = (file: string): string => longest(file, Object.keys(law)) ?? "";

test("every source file lies in a folder that the law knows", () => {
  assert.deepEqual(
    sources.filter((file) => longest(file, Object.keys(law)) === undefined),
    [],
  );
});

test("folders import only what the law allows", () => {
  const broken = sources.flatMap((file) => {
    const room = roomOf(file);
    const allowed = law[room] ?? [];
    return importsOf(file)
      .filter((specifier) => specifier.startsWith("."))
      .map((specifier) => inside(file, specifier))
      .filter((target) => roomOf(target) !== room && !allowed.some((prefix) => target.startsWith(prefix)))
      .map((target) => `${file} -> ${target}`);
  });
  assert.deepEqual(broken, []);
});

test("pure folders import nothing of Node", () => {
  const broken = sources
    .filter((file) => longest(file, pureFolders) !== undefined)
    .flatMap((file) =>
      importsOf(file)
        .filter((specifier) => specifier.startsWith("node:"))
        .map((specifier) => `${file} -> ${specifier}`),
    );
  assert.deepEqual(broken, []);
});

test("product code never imports tests", () => {
  const broken = sources.flatMap((file) =>
    importsOf(file)
      .filter((specifier) => specifier.startsWith(".") && (inside(file, specifier).startsWith("test/") || specifier.endsWith(".test.ts")))
      .map((specifier) => `${file} -> ${specifier}`),
  );
  assert.deepEqual(broken, []);
});

test("each npm client has one importing folder", () => {
  const broken = sources.flatMap((file) =>
    importsOf(file)
      .filter((specifier) => !specifier.startsWith(".") && !specifier.startsWith("node:"))
      .filter((specifier) => {
        const client = longest(specifier, Object.keys(clients));
        if (client !== undefined) return !file.startsWith(clients[client] ?? "");
        const shared = longest(specifier, Object.keys(free));
        return shared === undefined || !(free[shared] ?? []).some((prefix) => file.startsWith(prefix));
      })
      .map((specifier) => `${file} -> ${specifier}`),
  );
  assert.deepEqual(broken, []);
});

test("every npm client that the law names is imported where it says, and every dependency has a row", () => {
  const packages = sources.map((file) => ({ file, imports: importsOf(file).filter((s) => !s.startsWith(".") && !s.startsWith("node:")) }));
  const rows = [...Object.entries(clients), ...Object.entries(free).flatMap(([name, folders]) => folders.map((f) => [name, f] as const))];
  const unused = rows.filter(
    ([name, folder]) => !packages.some((p) => p.file.startsWith(folder) && p.imports.some((s) => s.startsWith(name))),
  );
  const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const named = [...Object.keys(clients), ...Object.keys(free)];
  const unnamed = Object.keys({ ...dependencies, ...optionalDependencies }).filter((name) => longest(name, named) === undefined);
  assert.deepEqual({ unused, unnamed }, { unused: [], unnamed: [] });
});

test("imports form no cycle", () => {
  const known = new Set(sources);
  const edges = new Map(
    sources.map((file) => [
      file,
      importsOf(file)
        .filter((s) => s.startsWith("."))
        .map((s) => inside(file, s))
        .filter((t) => known.has(t)),
    ]),
  );
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(" -> "));
    if (done.has(file) || path.includes(file)) return;
    for (const next of edges.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of sources) visit(file, []);
  assert.deepEqual(cycles, []);
});

test(`files, those of tests too, have at most ${linesMax} lines`, () => {
  const files = globSync("{crds,operator,runtime,test}/**/*.{ts,mjs,py}", { cwd: root }).filter(
    (file) => !file.startsWith("runtime/wire/gen/"),
  );
  const lines = (file: string): number => readFileSync(join(root, file), "utf8").split("\n").length - 1;
  assert.deepEqual(
    files.filter((file) => lines(file) > linesMax),
    [],
  );
});

test("sources say on top what they are", () => {
  assert.deepEqual(
    sources.filter((file) => !/^(#!.*\n)?(\/\/|\/\*)/.test(readFileSync(join(root, file), "utf8"))),
    [],
  );
});
