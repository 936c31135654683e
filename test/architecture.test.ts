// The architecture of the house: each rule of test/architecture/ over all sources, and beside it what it must catch, planted
// among them. A rule that its own plant gets past is no rule. Limits that Biome and knip count are planted in architecture/tools.test.ts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { clients, constructions, environment, free, law, planned } from "./architecture/law.ts";
import * as rules from "./architecture/rules.ts";
import { readProduct, readSources, root, type Source } from "./architecture/sources.ts";

const product = readProduct();
const all = readSources("{crds,operator,runtime,test}/**/*.{ts,mjs,py}");
const protos = readSources("runtime/wire/proto/**/*.proto");
const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const packages = Object.keys({ ...dependencies, ...optionalDependencies });

/** A file that is added, or that stands in the place of one that exists, and what the rule must say of it: one pattern per finding. */
interface Plant {
  readonly file: string;
  readonly text: string;
  readonly finds: readonly RegExp[];
  /** The rule with tables that are out of date, for cases that plant such tables. */
  readonly rule?: rules.Rule;
}

interface Row {
  readonly rule: rules.Rule;
  readonly over?: readonly Source[];
  readonly planted: readonly Plant[];
}

/** A file of its own in some folder, with this code. */
const plant = (file: string, text: string, ...finds: readonly RegExp[]): Plant => ({ file, text: `// Planted.\n${text}\n`, finds });
/** No file at all: the tables are what is wrong. */
const stale = (rule: rules.Rule, ...finds: readonly RegExp[]): Plant => ({ ...plant("crds/planted.ts", ""), rule, finds });

const house: Readonly<Record<string, Row>> = {
  "every source file lies in a folder that the law knows": {
    rule: rules.everyFileHasARoom(),
    planted: [plant("runtime/cellar/planted.ts", "", /^runtime\/cellar\/planted\.ts:1: lies in no folder/)],
  },
  "folders import only what the law allows": {
    rule: rules.importsKeepTheLaw(),
    planted: [
      plant(
        "crds/planted.ts",
        'import "../runtime/placement/split.ts";',
        /^crds\/planted\.ts:2: crds\/ may not import runtime\/placement\/split/,
      ),
      plant("runtime/worker/planted.ts", 'import "../gateway/pool.ts";', /worker\/ may not import runtime\/gateway\/pool/),
      plant("runtime/gateway/planted.ts", 'export * from "../worker/plan.ts";', /gateway\/ may not import runtime\/worker\/plan/),
      plant("runtime/compute/ggml/planted.ts", 'import "../../engine/engine.ts";', /ggml\/ may not import runtime\/engine/),
      plant("runtime/experts/memory/planted.ts", 'import "../dispatch/client.ts";', /memory\/ may not import runtime\/experts\/dispatch/),
      plant("runtime/tools/planted.ts", 'await import("../engine/engine.ts");', /tools\/ may not import runtime\/engine/),
      plant("operator/deployment/planted.ts", 'import "../rebalance/loop.ts";', /deployment\/ may not import operator\/rebalance/),
      plant("operator/deployment/objects/planted.ts", 'import "../../planner/index.ts";', /objects\/ may not import operator\/planner/),
      plant("operator/planner/search/planted.ts", 'import "../policies/eplb.ts";', /search\/ may not import operator\/planner\/policies/),
      plant("operator/planner/load/planted.ts", 'import "../search/ledger.ts";', /load\/ may not import operator\/planner\/search/),
      plant("operator/kube/planted.ts", 'import "../deployment/observe.ts";', /kube\/ may not import operator\/deployment/),
      plant("operator/cli/planted.ts", 'import "../main.ts";', /cli\/ may not import operator\/main/),
      plant("operator/cli/commands/planted.ts", 'import "../../rebalance/loop.ts";', /commands\/ may not import operator\/rebalance/),
    ],
  },
  "no row of the law is dead: each has files, and needs all that it allows": {
    rule: rules.everyRowIsAlive(),
    planted: [
      stale(rules.everyRowIsAlive({ ...law, "runtime/attic/": [] }), /row "runtime\/attic\/" has no file/),
      stale(
        rules.everyRowIsAlive({ ...law, "runtime/text/": ["crds/", "runtime/wire/"] }),
        /"runtime\/text\/" allows "runtime\/wire\/", which no file/,
      ),
      stale(rules.everyRowIsAlive(law, { ...planned, "runtime/attic/": "to come" }), /"runtime\/attic\/" is planned and has no row/),
      stale(rules.everyRowIsAlive(law, { ...planned, "runtime/text/": "to come" }), /"runtime\/text\/" has files now/),
    ],
  },
  "pure folders import nothing of Node": {
    rule: rules.pureFoldersImportNothingOfNode,
    planted: [plant("runtime/kernels/planted.ts", 'import "node:fs";', /^runtime\/kernels\/planted\.ts:2: a pure folder imports node:fs/)],
  },
  "pure folders use no clock, no timer and no random globals": {
    rule: rules.pureFoldersHaveNoClockAndNoRandom,
    planted: [
      plant("operator/planner/planted.ts", "const t = Date.now();", /^operator\/planner\/planted\.ts:2: .*Date\.now/),
      plant("operator/deployment/core/planted.ts", "const t = new Date();", /new Date\(\)/),
      plant("runtime/placement/planted.ts", "// Date.now() is only said\nconst t = performance.now();", /planted\.ts:3: .*performance/),
      plant("crds/planted.ts", "setTimeout(run, 1);\nsetInterval(run, 1);", /setTimeout/, /setInterval/),
      plant("runtime/models/planted.ts", "const x = Math.random();", /Math\.random/),
      plant("runtime/engine/core/planted.ts", "const id = crypto.randomUUID();", /crypto/),
      plant("operator/planner/load/planted.ts", 'const text = "Math.random()", then = new Date(0);'),
    ],
  },
  "only roots read the environment": {
    rule: rules.onlyRootsReadTheEnvironment(),
    planted: [
      plant("runtime/worker/planted.ts", "const home = process.env.HOME;", /^runtime\/worker\/planted\.ts:2: reads the environment/),
      plant("runtime/worker/planted.ts", "const { env } = process;", /planted\.ts:2: reads the environment/),
      plant("runtime/worker/planted.ts", 'import { env } from "node:process";', /planted\.ts:2: imports node:process/),
      plant("operator/cli/commands/planted.ts", "const { HOME } = process.env;", /commands\/planted\.ts:2: reads the environment/),
      stale(
        rules.onlyRootsReadTheEnvironment({ ...environment, "operator/config.ts": "root" }),
        /operator\/config\.ts is listed .* nothing of it/,
      ),
    ],
  },
  "only adapters and roots construct what reaches outside of the process": {
    rule: rules.onlyRootsConstructClients(),
    planted: [
      plant("operator/deployment/planted.ts", "const config = new KubeConfig();", /planted\.ts:2: constructs a client of the API server/),
      plant("operator/deployment/planted.ts", "const kube = createKube(transport);", /constructs a client of the API server/),
      plant("runtime/experts/planted.ts", "const server = new grpc.Server();", /constructs a gRPC client or server/),
      plant("runtime/gateway/planted.ts", "open({ network: grpcNetwork });", /constructs a gRPC client or server/),
      plant("runtime/experts/planted.ts", "const socket = connectTls({ port });", /constructs a TLS socket or listener/),
      plant("runtime/worker/planted.ts", "const bus = createBus({ url });", /constructs a connection to NATS/),
      plant("runtime/wire/planted.ts", "const c = await connect({ servers });", /constructs a connection to NATS/),
      plant("runtime/engine/planted.ts", "const m = new PrometheusExporter();", /constructs logs, metrics or traces/),
      plant("operator/kube/planted.ts", "const log = createLog({ level });", /constructs logs, metrics or traces/),
      plant("operator/kube/planted.ts", "await serveHealth({ port });", /constructs an HTTP server/),
      plant("operator/kube/planted.ts", "await fetch(url);", /constructs an HTTP request/),
      plant("runtime/weights/planted.ts", "const w = new Worker(url);", /constructs a thread/),
      stale(
        rules.onlyRootsConstructClients({
          x: { ...constructions["a thread"]!, where: { ...constructions["a thread"]!.where, "crds/plan.ts": "" } },
        }),
        /crds\/plan\.ts is listed .* nothing of it/,
      ),
    ],
  },
  "product code never imports tests": {
    rule: rules.productImportsNoTest,
    planted: [
      plant(
        "runtime/text/planted.ts",
        'import "../../test/sim/clock.ts";',
        /^runtime\/text\/planted\.ts:2: product code imports test\/sim\/clock/,
      ),
      plant("runtime/text/planted.ts", 'import "./stop-text.test.ts";', /imports runtime\/text\/stop-text\.test\.ts/),
    ],
  },
  "each npm client has one importing folder": {
    rule: rules.everyPackageHasOneFolder,
    planted: [
      plant(
        "operator/rebalance/planted.ts",
        'import * as grpc from "@grpc/grpc-js";',
        /planted\.ts:2: .*@grpc\/grpc-js: only runtime\/wire\/ may/,
      ),
      plant("crds/planted.ts", 'import leftPad from "left-pad";', /left-pad: give it a row/),
    ],
  },
  "what calls C functions in a test is one file": {
    rule: rules.testsUseAdapters,
    over: all,
    planted: [
      plant(
        "test/bench/planted.ts",
        'import koffi from "koffi";',
        /planted\.ts:2: a test imports koffi: only test\/bench\/llama\/library\.ts may/,
      ),
      plant("test/bench/llama/library.ts", "", /library\.ts is listed for koffi, and does not import it/),
    ],
  },
  "every npm client that the law names is imported where it says, and every dependency has a row": {
    rule: rules.everyPackageRowIsAlive(packages),
    planted: [
      stale(rules.everyPackageRowIsAlive([...packages, "left-pad"]), /dependency left-pad has no row/),
      stale(
        rules.everyPackageRowIsAlive(packages, { clients: { ...clients, "left-pad": "crds/" }, free }),
        /nothing in crds\/ imports left-pad/,
      ),
    ],
  },
  "imports form no cycle": {
    rule: rules.importsFormNoCycle,
    planted: [
      plant(
        "crds/common.ts",
        'import "./plan.ts";',
        /common\.ts:2: closes a cycle, .*crds\/plan\.ts -> crds\/common\.ts|crds\/plan\.ts:\d+: closes a cycle/,
      ),
    ],
  },
  [`files, those of tests too, have at most ${rules.linesMax} lines`]: {
    rule: rules.filesAreShort,
    over: all,
    planted: [plant("test/planted.ts", "\n".repeat(rules.linesMax), /^test\/planted\.ts:401: has 402 lines/)],
  },
  "sources say on top what they are": {
    rule: rules.filesSayWhatTheyAre,
    planted: [{ file: "crds/planted.ts", text: "export const x = 1;\n", finds: [/^crds\/planted\.ts:1: does not open with a comment/] }],
  },
  "what is private is written #name": {
    rule: rules.privateIsPrivate(),
    over: all,
    planted: [
      plant(
        "runtime/text/planted.ts",
        "class A {\n  private readonly x = 1;\n}",
        /^runtime\/text\/planted\.ts:3: "private readonly x": write #name/,
      ),
      plant("test/planted.ts", "class A {\n  private async run() {}\n}", /"private async run"/),
      plant("crds/planted.ts", "class A {\n  get() {\n    return this._x;\n  }\n}", /crds\/planted\.ts:4: "this\._x"/),
      plant("crds/planted.ts", "class A {\n  private constructor() {}\n}"),
      stale(rules.privateIsPrivate({ "operator/rebalance/": "", "runtime/text/": "" }), /runtime\/text\/ has no keyword "private" left/),
    ],
  },
  "no literal is spread into another": {
    rule: rules.literalsStandTogether,
    planted: [
      plant("runtime/text/planted.ts", "open({\n  ...{ a, b },\n  c,\n});", /^runtime\/text\/planted\.ts:3: spreads a literal/),
      plant("runtime/text/planted.ts", "open({ ...options, ...(a ? { a } : {}) });"),
    ],
  },
  "every field of the wire is written and read": {
    rule: rules.everyWireFieldIsUsed(protos),
    planted: [
      stale(
        rules.everyWireFieldIsUsed([
          ...protos,
          { file: "x.proto", text: "message Ping {\n  uint64 epoch = 1;\n  bytes never_heard_of = 2; // epoch\n}\n" },
        ]),
        /^x\.proto:3: nobody writes Ping\.never_heard_of/,
        /^x\.proto:3: nobody reads Ping\.never_heard_of/,
      ),
    ],
  },
};

for (const [sentence, { rule, over = product, planted }] of Object.entries(house)) {
  test(sentence, () => assert.deepEqual(rule(over), []));

  test(`planted: ${sentence}`, () => {
    for (const { file, text, finds, rule: other = rule } of planted) {
      const found = other([...over.filter((source) => source.file !== file), { file, text }]);
      assert.equal(found.length, finds.length, `planted in ${file}: ${text}\nfound: ${found.join("\n")}`);
      for (const [i, pattern] of finds.entries()) assert.match(found[i] ?? "", pattern);
    }
  });
}
