// The things that reach outside of the process, and the files that may make them: a part of the tables of law.ts, which the rules read.

interface Construction {
  /** The pattern of such code, with flag g; it matches calls, not declarations. */
  readonly pattern: RegExp;
  /** The files that may have it -> why: an adapter, which wraps the package once, or a root, which composes. */
  readonly where: Readonly<Record<string, string>>;
}

/** The things that reach outside of the process, with the files that may construct them: all others are handed them, for tests too. */
export const constructions: Readonly<Record<string, Construction>> = {
  "a client of the API server": {
    pattern: /\bnew KubeConfig\(|(?<!function )\b(?:loadKubeConfig|createTransport|createKube)\(/g,
    where: {
      "operator/kube/transport.ts": "adapter",
      "operator/main.ts": "root of the operator",
      "operator/cli/kube.ts": "root of all commands that read a cluster",
    },
  },
  "a gRPC client or server": {
    pattern: /\bnew grpc\.(?:Client|Server)\(|(?<!function )\b(?:createClient|createServer)\(tls|\bgrpcNetwork\b(?=[,; )])(?<!import.*)/g,
    where: {
      "runtime/wire/service.ts": "adapter: clients",
      "runtime/wire/grpc.ts": "adapter: servers",
      "runtime/worker/worker.ts": "root of the worker",
      "runtime/gateway/gateway.ts": "root of the gateway",
      "runtime/seed/seed.ts": "root of a seed",
      "operator/rebalance/controller.ts": "root of the rebalance plane: links to pods",
    },
  },
  "a TLS socket or listener": {
    pattern: /(?<!function )\b(?:connectTls|createTlsListener|createListener)\(|\bnew TLSSocket\(/g,
    where: {
      "runtime/wire/dispatch-link.ts": "adapter: streams of dispatch frames",
      "runtime/wire/listener.ts": "adapter: the port of gRPC and dispatch frames",
      "runtime/wire/grpc.ts": "adapter: has that port",
      "runtime/wire/lane-accept.ts": "adapter: the port of lanes",
      "runtime/comm/wire.ts": "adapter: the port of training's frames",
      "runtime/wire/operator-port.ts": "adapter: a port of a pod for the operator alone",
    },
  },
  "a connection to NATS": {
    pattern: /\bnew NatsBus\(|(?<!function )\bcreateBus\(|\bawait connect\(/g,
    where: {
      "runtime/wire/nats.ts": "adapter",
      "runtime/worker/worker.ts": "root of the worker: publishes load",
      "operator/rebalance/controller.ts": "root of the rebalance plane: takes load in, one server per deployment",
      "operator/cli/commands/plan-record.ts": "the command that records load",
    },
  },
  "logs, metrics or traces": {
    pattern:
      /\b(?:pino|(?<!function )createLog|(?<!function )createMetrics|(?<!function )createTracing)\(|\bnew (?:MeterProvider|PrometheusExporter|PrometheusSerializer|OTLPTraceExporter)\(/g,
    where: {
      "runtime/observe/log.ts": "adapter",
      "runtime/observe/metrics.ts": "adapter",
      "runtime/observe/trace.ts": "adapter",
      "operator/main.ts": "root of the operator",
      "runtime/worker/worker.ts": "root of the worker",
      "runtime/gateway/gateway.ts": "root of the gateway",
      "runtime/trainer/trainer.ts": "root of a training pod",
      "runtime/downloader/downloader.ts": "root of a pod that downloads a model",
      "runtime/seed/seed.ts": "root of a seed",
      "runtime/trainer/check.ts": "root of the check of a job",
    },
  },
  "an HTTP server": {
    pattern: /(?<!function )\b(?:serveHealth|createAdaptorServer)\(|\bcreateServer\(\s*\{/g,
    where: {
      "runtime/observe/bounded-server.ts": "adapter: probes and metrics",
      "runtime/wire/operator-port.ts": "adapter: the same port, before its TLS",
      "runtime/trainer/trace-server.ts": "adapter: what a training pod tells of its steps, on loopback",
      "operator/main.ts": "root of the operator",
      "operator/page/server.ts": "adapter: the page, whose streams stay open",
      "runtime/worker/worker.ts": "root of the worker",
      "runtime/gateway/gateway.ts": "root of the gateway: its probes and metrics",
      "runtime/gateway/http-server.ts": "adapter: the gateway's API, plain or with TLS",
    },
  },
  "an HTTP request": {
    pattern: /(?<![.#\w])(?<!async )fetch\(/g,
    where: {
      "operator/cli/chat-client.ts": "the command that talks to a gateway",
      "runtime/gateway/issuer-keys.ts": "adapter: documents of the issuer of tokens",
    },
  },
  "a thread": {
    pattern: /\bnew Worker\(/g,
    where: {
      "runtime/engine/client.ts": "the engine's loop, beside the process's own",
      "runtime/engine/vocabulary.ts": "a large vocabulary takes a second to be read and sorted; tokens go on meanwhile",
      "runtime/text/text-thread.ts": "texts and templates of users take what time they take; tokens of others go on meanwhile",
      "operator/rebalance/intents/planner-thread.ts": "plans take seconds; the loop goes on meanwhile",
    },
  },
};
