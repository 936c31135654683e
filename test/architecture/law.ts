// The architecture as tables: which folder may import which, which are pure, who may construct what and read the environment.
// The rules (rules.ts) read them, and say when a row is dead; how a row reads is told at each table. No code but the tables.

/**
 * Folder or file -> what it may import besides itself. A folder with a row of its own is another room than the one around it:
 * naming the outer one opens no inner one. Rows name no more than is used, so that a new kind of import is a decision.
 */
export const law: Readonly<Record<string, readonly string[]>> = {
  // Contracts, then pure rooms, then adapters: nothing below imports what is further down.
  "crds/": [],
  "runtime/placement/": ["crds/"],
  "runtime/kernels/": ["crds/", "runtime/placement/grid.ts"],
  "runtime/models/": ["crds/", "runtime/kernels/"],
  "runtime/engine/core/": ["crds/", "runtime/kernels/", "runtime/engine/core/constraints/"],
  "runtime/engine/core/constraints/": ["crds/"],
  "runtime/wire/": ["crds/", "runtime/placement/"],
  "runtime/observe/": ["crds/"],
  "runtime/text/": ["crds/"],
  "runtime/weights/": ["crds/", "runtime/placement/grid.ts", "runtime/kernels/", "runtime/models/"],
  // The door of what computes; of weights it knows the forms of a matrix (kernels). Engines behind it know only the door.
  "runtime/compute/": ["crds/", "runtime/kernels/", "runtime/compute/ggml/", "runtime/compute/onnx/"],
  "runtime/compute/ggml/": ["crds/", "runtime/kernels/", "runtime/compute/"],
  "runtime/compute/onnx/": ["crds/", "runtime/kernels/", "runtime/compute/"],
  "runtime/engine/": [
    "crds/",
    "runtime/placement/",
    "runtime/kernels/",
    "runtime/models/",
    "runtime/weights/",
    "runtime/compute/",
    "runtime/engine/core/",
    "runtime/engine/core/constraints/",
    "runtime/text/token-texts.ts",
    // Frames of other ranks' engines on connections of its own; all else on the wire is the main thread's.
    "runtime/wire/",
  ],
  // Experts see the engine through its interface; memory knows nothing of dispatch.
  "runtime/experts/": ["crds/", "runtime/wire/", "runtime/observe/"],
  "runtime/experts/memory/": ["crds/", "runtime/placement/", "runtime/weights/", "runtime/wire/", "runtime/observe/", "runtime/experts/"],
  "runtime/experts/dispatch/": [
    "crds/",
    "runtime/placement/",
    "runtime/weights/floats.ts",
    "runtime/wire/",
    "runtime/observe/",
    "runtime/engine/engine.ts",
    "runtime/experts/",
    "runtime/experts/memory/",
  ],
  // Training serves nobody; it reaches other ranks through its collectives alone, which know neither engine nor training.
  "runtime/comm/": ["crds/", "runtime/placement/", "runtime/wire/"],
  "runtime/train/": [
    "crds/",
    "runtime/placement/",
    "runtime/comm/",
    "runtime/kernels/",
    "runtime/models/",
    "runtime/weights/",
    "runtime/compute/",
    "runtime/text/tokenizer.ts",
    "runtime/tools/files.ts",
  ],
  // A training pod: its world, training in it, and what it tells of it.
  "runtime/trainer/": ["crds/", "runtime/comm/", "runtime/wire/", "runtime/observe/", "runtime/train/"],
  // The two roles that serve never know each other.
  "runtime/worker/": [
    "crds/",
    "runtime/placement/",
    "runtime/weights/",
    "runtime/wire/",
    "runtime/observe/",
    "runtime/engine/engine.ts",
    "runtime/experts/",
    "runtime/experts/memory/",
    "runtime/experts/dispatch/",
  ],
  // A gateway refuses at the door what an engine would: it knows the languages that a text may be held to, and nothing else of engines.
  "runtime/gateway/": ["crds/", "runtime/wire/", "runtime/observe/", "runtime/text/", "runtime/engine/core/constraints/"],
  // A pod that downloads a model: it reaches the source by the tools of the command line, and tells the operator how far it is.
  "runtime/downloader/": ["crds/", "runtime/wire/", "runtime/observe/", "runtime/weights/", "runtime/tools/"],
  // The pod with the whole store: ranks fetch from it as from each other, and where it has no claim it downloads as a Job does.
  "runtime/seed/": ["crds/", "runtime/wire/", "runtime/observe/", "runtime/weights/", "runtime/experts/memory/", "runtime/downloader/"],
  "runtime/tools/": [
    "crds/",
    "runtime/placement/grid.ts",
    "runtime/kernels/",
    "runtime/models/",
    "runtime/weights/",
    "runtime/compute/",
    "runtime/compute/ggml/fma.ts",
    "runtime/text/",
  ],
  "runtime/config.ts": ["crds/"],
  "runtime/main.ts": [
    "crds/",
    "runtime/config.ts",
    "runtime/worker/worker.ts",
    "runtime/gateway/gateway.ts",
    "runtime/trainer/trainer.ts",
    "runtime/downloader/downloader.ts",
    "runtime/seed/seed.ts",
    "runtime/trainer/check.ts",
    "package.json",
  ],
  // The planner is pure; only its root sees the policies, and searches know no policy.
  "operator/planner/": ["crds/", "runtime/placement/", "operator/planner/policies/"],
  "operator/planner/load/": ["crds/", "runtime/placement/", "operator/planner/decide.ts", "operator/planner/policy.ts"],
  "operator/planner/search/": ["runtime/placement/", "operator/planner/policy.ts", "operator/planner/problem.ts"],
  "operator/planner/search/incremental/": [
    "runtime/placement/",
    "operator/planner/copies.ts",
    "operator/planner/policy.ts",
    "operator/planner/problem.ts",
    "operator/planner/random.ts",
    "operator/planner/search/",
  ],
  "operator/planner/search/affinity/": ["operator/planner/random.ts"],
  "operator/planner/policies/": [
    "crds/",
    "runtime/placement/",
    "operator/planner/policy.ts",
    "operator/planner/problem.ts",
    "operator/planner/random.ts",
    "operator/planner/repair.ts",
    "operator/planner/solver.ts",
    "operator/planner/search/",
    "operator/planner/search/affinity/",
    "operator/planner/search/incremental/",
  ],
  "operator/planner/offline/": ["crds/", "runtime/placement/", "operator/planner/", "operator/planner/load/"],
  "operator/kube/": ["crds/"],
  "operator/pki/": ["crds/", "operator/kube/"],
  "operator/gangs/": ["crds/", "operator/kube/"],
  "operator/pods/": ["crds/", "operator/kube/"],
  "operator/dashboards/": ["crds/"],
  "operator/rbac.ts": [],
  "operator/config.ts": ["crds/"],
  // The deployment plane knows neither planner nor rebalance plane: they meet in its ports, and in main.
  "operator/deployment/core/": ["crds/", "runtime/placement/grid.ts", "operator/kube/", "operator/gangs/"],
  "operator/deployment/objects/": [
    "crds/",
    "operator/kube/",
    "operator/pki/names.ts",
    "operator/gangs/",
    "operator/pods/",
    "operator/deployment/core/",
  ],
  "operator/deployment/": [
    "crds/",
    "runtime/observe/",
    "operator/kube/",
    "operator/pki/",
    "operator/gangs/",
    "operator/pods/",
    "operator/rbac.ts",
    "operator/deployment/core/",
    "operator/deployment/objects/",
  ],
  // The two planes share plumbing and know nothing of each other.
  "operator/training/core/": ["crds/"],
  "operator/training/": [
    "crds/",
    "runtime/observe/",
    "runtime/wire/tls.ts",
    "operator/kube/",
    "operator/pki/",
    "operator/gangs/",
    "operator/pods/",
    "operator/training/core/",
  ],
  // The rebalance plane: links know the pods, load keeps what they report of it, intents say what is wanted, the rollout carries it out,
  // status tells; the root joins them.
  "operator/rebalance/": [
    "crds/",
    "runtime/placement/",
    "runtime/wire/",
    "runtime/observe/",
    "operator/planner/",
    "operator/planner/load/",
    "operator/kube/ask-pod.ts",
    "operator/kube/kube.ts",
    "operator/kube/workqueue.ts",
    "operator/deployment/ports.ts",
    "operator/rebalance/links/",
    "operator/rebalance/load/",
    "operator/rebalance/intents/",
    "operator/rebalance/rollout/",
    "operator/rebalance/status/",
  ],
  "operator/rebalance/links/": [
    "crds/",
    "runtime/placement/",
    "runtime/wire/",
    "operator/planner/load/",
    "operator/kube/ask-pod.ts",
    "operator/kube/kube.ts",
    "operator/pki/names.ts",
    "operator/deployment/ports.ts",
    "operator/rebalance/",
    "operator/rebalance/load/",
  ],
  "operator/rebalance/load/": ["crds/", "runtime/placement/", "operator/planner/", "operator/planner/load/", "operator/rebalance/"],
  "operator/rebalance/rollout/": [
    "crds/",
    "runtime/placement/",
    "operator/planner/",
    "operator/kube/kube.ts",
    "operator/deployment/objects/context.ts",
    "operator/rebalance/",
    "operator/rebalance/links/",
    "operator/rebalance/load/",
  ],
  "operator/rebalance/intents/": [
    "crds/",
    "runtime/placement/",
    "operator/planner/",
    "operator/planner/policies/incremental.ts",
    "operator/rebalance/",
    "operator/rebalance/load/",
    "operator/rebalance/rollout/",
    "operator/rebalance/status/decision-events.ts",
  ],
  "operator/rebalance/status/": [
    "crds/",
    "runtime/placement/",
    "runtime/observe/",
    "operator/planner/",
    "operator/kube/kube.ts",
    "operator/deployment/ports.ts",
    "operator/rebalance/",
    "operator/rebalance/rollout/",
  ],
  // The page reads what the planes know and tells nobody else; whatever it makes is a pure function of that.
  "operator/page/": ["crds/", "runtime/observe/", "runtime/placement/", "operator/kube/kube.ts", "operator/rebalance/status/picture.ts"],
  "operator/main.ts": [
    "crds/",
    "runtime/observe/",
    "operator/config.ts",
    "operator/kube/",
    "operator/deployment/",
    "operator/rebalance/controller.ts",
    "operator/training/",
    "operator/page/",
    "package.json",
  ],
  // The command line reads what the planes publish and plans offline; it never loads a plane.
  "operator/cli/": [
    "crds/",
    "operator/kube/",
    "operator/rbac.ts", // the rights that `enodia doctor` asks for
    "package.json",
    "runtime/placement/grid.ts",
    "runtime/wire/load-signature.ts",
    "operator/deployment/core/memory-fit.ts",
    "operator/planner/offline/",
    "operator/cli/commands/",
  ],
  "operator/cli/commands/": [
    "crds/",
    "runtime/placement/grid.ts",
    "runtime/wire/nats.ts",
    "runtime/tools/",
    "runtime/train/",
    "operator/kube/kube.ts",
    "operator/deployment/revision.ts",
    "operator/planner/",
    "operator/planner/offline/",
    "operator/cli/",
  ],
};

/** Rows of the law whose folder is still to come -> why they stand there already. A row leaves this list with its first file. */
export const planned: Readonly<Record<string, string>> = {};

/** Rooms without clock, random, network or file system: what they need of it comes as an argument, so that tests and replays decide it. */
export const pureFolders: readonly string[] = [
  "crds/",
  "runtime/placement/",
  "runtime/kernels/",
  "runtime/models/",
  "runtime/engine/core/",
  "operator/planner/",
  "operator/deployment/core/",
  "operator/gangs/",
  "operator/pods/",
  "operator/training/core/",
];

/** Files in pure rooms that are not pure themselves -> why. */
export const notPure: Readonly<Record<string, string>> = {
  "crds/generate.ts": "a script: writes manifests and the reference, and nothing imports it",
};

/** npm package (prefix) -> the one folder that imports it, so that replacing a client is work in one room. */
export const clients: Readonly<Record<string, string>> = {
  "@kubernetes/client-node": "operator/kube/",
  "@grpc/grpc-js": "runtime/wire/",
  nats: "runtime/wire/",
  "@opentelemetry/": "runtime/observe/",
  pino: "runtime/observe/",
  koffi: "runtime/compute/ggml/",
  "@node-llama-cpp/": "runtime/compute/ggml/",
  "onnxruntime-node": "runtime/compute/onnx/",
  "@hono/": "runtime/gateway/",
  hono: "runtime/gateway/",
  jose: "runtime/gateway/",
  aws4fetch: "runtime/tools/download/s3.ts",
  "fast-xml-parser": "runtime/tools/download/s3.ts",
  highs: "operator/planner/solver.ts",
  "@huggingface/tokenizers": "runtime/text/",
  "@huggingface/jinja": "runtime/text/",
  "@peculiar/x509": "operator/pki/",
  "@grafana/": "operator/dashboards/",
};

/** npm package of the product that a test needs for itself -> the only test file that imports it, and why. */
export const testClients: Readonly<Record<string, { readonly file: string; readonly why: string }>> = {
  jose: { file: "test/support/issuer.ts", why: "an issuer of tokens, whose keys a gateway reads" },
  koffi: { file: "test/bench/llama/library.ts", why: "calls llama.cpp, the engine that ours is compared with" },
};

/** zod is free everywhere; protobuf messages are made with `create` wherever they are sent. */
export const free: Readonly<Record<string, readonly string[]>> = {
  zod: [""],
  yaml: ["crds/generate.ts", "crds/values-page.ts"],
  "@bufbuild/protobuf": ["runtime/", "operator/rebalance/"],
};

/** The files that read process.env -> why. All others are given arguments, so that a process's settings stand in one place each. */
export const environment: Readonly<Record<string, string>> = {
  "operator/main.ts": "root of the operator: hands it to config.ts",
  "runtime/main.ts": "root of worker, gateway, training pod, check and download: hands it to config.ts",
  "operator/cli/environment.ts": "what the command line takes from the user's machine",
  "operator/cli/bootstrap.mjs": "runs before anything is installed: finds Node and the cache, and passes its environment on",
};

export { constructions } from "./constructions.ts";

/** Files where the keyword `private` still stands -> why. */
export const keywordPrivate: Readonly<Record<string, string>> = {
  "operator/rebalance/rollout/protocol.ts": "the simulation plants its bugs by bending these members (test/sim/plants.ts)",
};
