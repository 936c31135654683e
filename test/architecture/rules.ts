// The tables of test/architecture.test.ts: which folder may import which, which are pure, who reads the environment, who has a package.

/**
 * Folder or file -> what it may import besides itself and crds/, names apart by spaces. A folder with a row of its own is another
 * room than the one around it: naming the outer one opens no inner one.
 */
export const allowedImports: Readonly<Record<string, string>> = {
  "crds/": "",
  "runtime/placement/": "",
  "runtime/kernels/": "runtime/placement/grid.ts",
  "runtime/models/": "runtime/kernels/",
  "runtime/engine/schedule/": "runtime/kernels/ runtime/constraints/",
  "runtime/engine/pass/": `runtime/placement/ runtime/kernels/ runtime/weights/store.ts runtime/compute/ runtime/engine/api.ts
    runtime/engine/schedule/ runtime/experts/prefetch/`,
  "runtime/constraints/": "",
  "runtime/net/": "runtime/placement/",
  "runtime/observe/": "runtime/net/connections.ts",
  "runtime/text/": "",
  "runtime/weights/": "runtime/placement/grid.ts runtime/kernels/ runtime/models/",
  "runtime/compute/": "runtime/kernels/ runtime/compute/ggml/ runtime/compute/onnx/",
  "runtime/compute/ggml/": "runtime/kernels/ runtime/compute/",
  "runtime/compute/onnx/": "runtime/kernels/ runtime/compute/",
  "runtime/engine/thread/": `runtime/placement/ runtime/kernels/ runtime/models/ runtime/weights/ runtime/compute/ runtime/constraints/
    runtime/net/prefix-ids.ts runtime/text/tokenizer.ts runtime/engine/ runtime/engine/pass/ runtime/engine/schedule/
    runtime/experts/prefetch/ runtime/experts/cache/`,
  "runtime/engine/": `runtime/placement/ runtime/kernels/head-groups.ts runtime/weights/ runtime/compute/ runtime/engine/pass/
    runtime/engine/schedule/ runtime/engine/thread/ runtime/net/`,
  "runtime/experts/":
    "runtime/placement/ runtime/net/ runtime/observe/ runtime/engine/engine.ts runtime/experts/memory/ runtime/experts/cache/",
  "runtime/experts/prefetch/": "runtime/placement/grid.ts runtime/kernels/",
  "runtime/experts/cache/": "runtime/placement/grid.ts",
  "runtime/experts/replay/": "runtime/placement/grid.ts runtime/experts/prefetch/ runtime/experts/cache/",
  "runtime/experts/memory/": "runtime/placement/ runtime/weights/ runtime/net/ runtime/observe/ runtime/experts/",
  "runtime/net/collectives/": "runtime/placement/ runtime/net/",
  "runtime/train/": `runtime/placement/ runtime/net/collectives/ runtime/kernels/ runtime/models/ runtime/weights/ runtime/compute/
    runtime/text/tokenizer.ts runtime/modelstore/companions.ts runtime/observe/otlp.ts runtime/observe/trace.ts`,
  "runtime/train/pod/": "runtime/net/collectives/ runtime/net/ runtime/observe/ runtime/train/",
  "runtime/worker/": `runtime/placement/ runtime/weights/ runtime/net/ runtime/observe/ runtime/engine/engine.ts runtime/experts/
    runtime/experts/memory/ runtime/experts/cache/`,
  "runtime/gateway/problem.ts": "",
  "runtime/gateway/auth/": "runtime/observe/ runtime/gateway/problem.ts",
  "runtime/gateway/routing/": "runtime/net/ runtime/observe/ runtime/constraints/ runtime/gateway/problem.ts",
  "runtime/gateway/api/": `runtime/net/connections.ts runtime/observe/ runtime/text/ runtime/constraints/ runtime/gateway/problem.ts
    runtime/gateway/auth/ runtime/gateway/routing/`,
  "runtime/gateway/": `runtime/net/ runtime/observe/ runtime/text/ runtime/gateway/api/ runtime/gateway/auth/
    runtime/gateway/routing/`,
  "runtime/modelstore/": `runtime/placement/grid.ts runtime/kernels/ runtime/models/ runtime/weights/ runtime/compute/
    runtime/text/`,
  "runtime/modelstore/upcycle/": `runtime/kernels/ runtime/models/ runtime/weights/ runtime/compute/ runtime/text/
    runtime/modelstore/`,
  "runtime/modelstore/surgery/": `runtime/kernels/ runtime/models/ runtime/weights/ runtime/compute/ runtime/text/ runtime/modelstore/
    runtime/modelstore/upcycle/`,
  "runtime/modelstore/quantize/": `runtime/kernels/ runtime/models/ runtime/weights/ runtime/compute/ runtime/text/ runtime/modelstore/
    runtime/modelstore/upcycle/`,
  "runtime/modelstore/delivery/": "runtime/net/ runtime/observe/ runtime/weights/ runtime/modelstore/",
  "runtime/modelstore/weight-server/": `runtime/net/ runtime/observe/ runtime/weights/ runtime/experts/memory/
    runtime/modelstore/delivery/`,
  "runtime/cli/": `runtime/placement/imbalance.ts runtime/kernels/ runtime/models/ runtime/compute/ runtime/compute/ggml/library.ts
    runtime/engine/engine.ts runtime/experts/prefetch/ runtime/experts/replay/ runtime/text/ runtime/weights/`,
  "runtime/config.ts": "",
  "runtime/main.ts": `runtime/config.ts runtime/worker/worker.ts runtime/gateway/gateway.ts runtime/train/pod/trainer.ts
    runtime/modelstore/delivery/downloader.ts runtime/modelstore/weight-server/weight-server.ts runtime/train/pod/check-job.ts package.json`,
  "operator/planner/": "runtime/placement/ operator/planner/policies/ operator/planner/search/",
  "operator/planner/load/": "runtime/placement/ operator/planner/replan.ts operator/planner/policy.ts",
  "operator/planner/search/": `runtime/placement/ operator/planner/expert-replicas.ts operator/planner/policy.ts
    operator/planner/problem.ts`,
  "operator/planner/search/incremental/": `runtime/placement/ operator/planner/expert-replicas.ts operator/planner/policy.ts
    operator/planner/problem.ts operator/planner/random.ts operator/planner/search/`,
  "operator/planner/policies/": `runtime/placement/ operator/planner/policy.ts operator/planner/problem.ts
    operator/planner/random.ts operator/planner/repair.ts operator/planner/search/
    operator/planner/search/incremental/`,
  "operator/planner/offline/": "runtime/placement/ operator/planner/ operator/planner/load/",
  "operator/kube/": "",
  "operator/pki/": "operator/kube/",
  "operator/gangs/": "operator/kube/",
  "operator/pods/": "operator/kube/",
  "operator/dashboards/": "",
  "operator/rbac.ts": "operator/kube/",
  "operator/config.ts": "",
  "operator/deployment/core/": "runtime/placement/grid.ts operator/kube/",
  "operator/deployment/objects/": "operator/kube/ operator/pki/names.ts operator/gangs/ operator/pods/ operator/deployment/core/",
  "operator/deployment/observed.ts": `operator/kube/refusal-text.ts operator/pods/ operator/gangs/ operator/deployment/core/ operator/deployment/objects/`,
  "operator/deployment/features/": `operator/kube/ operator/pods/ operator/gangs/ operator/pki/names.ts operator/deployment/core/ operator/deployment/objects/
    operator/deployment/observed.ts operator/deployment/features/`,
  "operator/deployment/state/":
    "operator/kube/ operator/pki/ operator/deployment/core/ operator/deployment/objects/ operator/deployment/ports.ts",
  "operator/deployment/observe/": `operator/kube/ operator/gangs/ operator/pods/ operator/deployment/core/ operator/deployment/objects/
    operator/deployment/state/ operator/deployment/observed.ts operator/deployment/ports.ts`,
  "operator/deployment/execute/": `operator/kube/ operator/pki/ operator/deployment/core/ operator/deployment/objects/
    operator/deployment/features/ operator/deployment/observe/ operator/deployment/state/ operator/deployment/observed.ts
    operator/deployment/ports.ts`,
  "operator/deployment/": `runtime/observe/ operator/kube/ operator/pki/ operator/gangs/ operator/pods/ operator/rbac.ts
    operator/deployment/core/ operator/deployment/objects/ operator/deployment/features/ operator/deployment/observe/
    operator/deployment/execute/ operator/deployment/state/`,
  "operator/training/core/": "operator/pods/",
  "operator/training/": `runtime/observe/ runtime/net/tls.ts operator/kube/ operator/pki/ operator/gangs/ operator/pods/
    operator/training/core/`,
  "operator/rebalance/": `runtime/placement/ runtime/net/ runtime/observe/ operator/planner/ operator/planner/load/
    operator/kube/ask-pod.ts operator/kube/kube.ts operator/kube/workqueue.ts operator/deployment/ports.ts operator/rebalance/links/
    operator/rebalance/load/ operator/rebalance/intents/ operator/rebalance/rollout/ operator/rebalance/status/`,
  "operator/rebalance/links/": `runtime/placement/ runtime/net/ operator/planner/load/ operator/kube/ask-pod.ts
    operator/kube/kube.ts operator/pki/names.ts operator/deployment/ports.ts operator/rebalance/ operator/rebalance/load/`,
  "operator/rebalance/load/": "runtime/placement/ operator/planner/ operator/planner/load/ operator/rebalance/",
  "operator/rebalance/rollout/": `runtime/placement/ operator/planner/ operator/kube/kube.ts operator/deployment/objects/context.ts
    operator/rebalance/ operator/rebalance/links/ operator/rebalance/load/`,
  "operator/rebalance/intents/": `runtime/placement/ operator/planner/ operator/planner/policies/incremental.ts operator/rebalance/
    operator/rebalance/load/ operator/rebalance/rollout/ operator/rebalance/status/decision-events.ts`,
  "operator/rebalance/status/": `runtime/placement/ runtime/observe/ operator/planner/ operator/kube/kube.ts operator/kube/status-writer.ts
    operator/deployment/ports.ts operator/rebalance/ operator/rebalance/rollout/`,
  "operator/views/": "operator/kube/kube.ts",
  "operator/page/":
    "operator/views/ runtime/net/connections.ts runtime/observe/ runtime/placement/ operator/kube/kube.ts operator/rebalance/status/placement-view.ts",
  "operator/main.ts": `runtime/observe/ operator/config.ts operator/kube/ operator/deployment/ operator/rebalance/controller.ts
    operator/training/ operator/page/ package.json`,
  "operator/cli/": `operator/views/ operator/kube/ operator/rbac.ts package.json runtime/placement/grid.ts runtime/net/load-signature.ts
    runtime/experts/replay/ operator/planner/offline/ operator/cli/commands/`,
  "operator/cli/commands/": `runtime/placement/grid.ts runtime/net/nats.ts runtime/modelstore/ runtime/modelstore/upcycle/ runtime/modelstore/surgery/ runtime/modelstore/quantize/ runtime/cli/ runtime/train/
    runtime/kernels/random.ts runtime/experts/prefetch/ runtime/experts/cache/ runtime/experts/replay/ operator/kube/kube.ts
    operator/kube/grant.ts operator/deployment/objects/revision.ts operator/planner/ operator/planner/offline/ operator/views/ operator/cli/`,
};

/** Rooms without clock, random, network or file system: those come as arguments, so that tests and replays decide them. */
export const pureFolders: readonly string[] = [
  "crds/",
  "runtime/placement/",
  "runtime/kernels/",
  "runtime/models/",
  "runtime/constraints/",
  "runtime/experts/prefetch/",
  "runtime/experts/cache/",
  "runtime/experts/replay/",
  "runtime/engine/schedule/",
  "operator/planner/",
  "operator/deployment/core/",
  "operator/deployment/features/",
  "operator/gangs/",
  "operator/pods/",
  "operator/training/core/",
];

/** Files in pure rooms that are not pure themselves. */
export const notPure: readonly string[] = ["crds/generate.ts"];

/** npm package (prefix) -> the one folder that imports it, so that replacing a client is work in one room. */
export const clients: Readonly<Record<string, string>> = {
  "@kubernetes/client-node": "operator/kube/",
  "@grpc/grpc-js": "runtime/net/",
  nats: "runtime/net/",
  "@nats-io/nkeys": "operator/pki/",
  "@opentelemetry/": "runtime/observe/",
  pino: "runtime/observe/",
  koffi: "runtime/compute/ggml/",
  "@node-llama-cpp/": "runtime/compute/ggml/",
  "onnxruntime-node": "runtime/compute/onnx/",
  "@hono/": "runtime/gateway/",
  hono: "runtime/gateway/",
  jose: "runtime/gateway/",
  aws4fetch: "runtime/modelstore/download/s3.ts",
  "fast-xml-parser": "runtime/modelstore/download/s3.ts",
  "@huggingface/tokenizers": "runtime/text/",
  "@huggingface/jinja": "runtime/text/",
  "@peculiar/x509": "operator/pki/",
  "@grafana/": "operator/dashboards/",
  commander: "operator/cli/",
  "cli-table3": "operator/cli/table.ts",
  "tar-stream": "operator/cli/bundle.ts",
};

/** Packages that more than one folder imports -> where. Protobuf messages are made with `create` wherever they are sent. */
export const shared: Readonly<Record<string, readonly string[]>> = {
  zod: [""],
  yaml: ["crds/generate.ts", "crds/values-page.ts"],
  "@bufbuild/protobuf": ["runtime/", "operator/rebalance/"],
};

/** The files that read process.env; all others are given arguments. */
export const environment: readonly string[] = [
  "operator/main.ts",
  "runtime/main.ts",
  "operator/cli/environment.ts",
  "operator/cli/bootstrap.mjs", // runs before anything is installed
];

/** What of the operator may ask this machine's clock -> why. */
export const clocks: Readonly<Record<string, string>> = {
  "operator/kube/workqueue.ts": "it makes the clocks",
  "operator/kube/server-clock.ts": "it begins with this machine's time, until the first answer",
  "operator/cli/": "a person's machine, which shows ages and writes no stamp that a replica reads",
};
