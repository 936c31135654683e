// The gateway's membership: it serves Control for the operator's pushes, and asks peers until it knows one.
import type { AppError } from "../../../crds/common.ts";
import { defaultRoutingPolicy, type MemberState } from "../../../crds/names.ts";
import type { GatewaySettings } from "../../../crds/process.ts";
import type { RankRole } from "../../../crds/roles.ts";
import { Control } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { GrpcServer, Network } from "../../net/grpc.ts";
import type { Identity, Membership } from "../../net/mapping.ts";
import { askPeers, resolvePeers } from "../../net/peer-snapshot.ts";
import type { TlsSource } from "../../net/tls.ts";
import type { Health } from "../../observe/health.ts";
import type { Log } from "../../observe/log.ts";
import type { Metrics } from "../../observe/runtime-metrics.ts";
import type { Tracing } from "../../observe/trace.ts";
import type { Admission } from "./admission.ts";
import { controlHandlers } from "./control.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { textSources } from "./text-sources.ts";
import { type PoolOptions, WorkerPool } from "./worker-pool.ts";

const controlCloseMs = 500;
/** Peers matter while the operator is away. */
const askPeersEveryMs = 2_000;

export interface MembersOptions {
  readonly config: GatewaySettings;
  readonly identity: Identity;
  readonly host: string;
  readonly log: Log;
  readonly metrics: Metrics<"gateway">;
  readonly health: Health;
  readonly tracing: Tracing;
  readonly tls: TlsSource;
  readonly network: Network;
  readonly server: GrpcServer;
  readonly admission: Admission;
  /** Replaces the headless Service. */
  readonly peers?: (() => Promise<string[]>) | undefined;
}

export interface Members {
  readonly pool: WorkerPool;
  readonly readiness: Readiness;
  readonly grpcPort: number;
  /** The gateway has its tokenizer and takes requests from now on. */
  canAnswer(): void;
  /** The gateway takes no new requests. */
  drain(): void;
  /** Undefined while plan or ranks are not known. */
  fingerprint(): string | undefined;
}

export async function joinMembers(options: MembersOptions, opened: AsyncDisposableStack): Promise<Members> {
  const { config, identity, host, log, metrics, health, tracing, tls, network, server, admission } = options;
  const { namespace, deployment, podName } = config;
  const reports = { ...awayReports(metrics, log), ...routingReports(metrics) };
  const routing = config.routing ?? defaultRoutingPolicy;
  const pool = new WorkerPool({ identity, namespace, deployment, tls, network, tracing, routing, ...reports });
  const readiness = new Readiness(pool, health, log);
  metrics.onCollect(() => showWorkers(pool, metrics));
  let modelDigest = "";
  const onPlan = (plan: { readonly modelDigest: string }) => {
    modelDigest = plan.modelDigest;
  };
  const onMembership = (membership: Membership) => readiness.apply(membership);
  let draining = false;
  let answers = false;
  const state = {
    membership: () => pool.membership(),
    notReady: () => health.reasons(),
    activeRequests: () => admission.inside,
    draining: () => draining,
    // A starting gateway counts as busy, since it needs ranks for its tokenizer.
    idleMs: () => (answers ? admission.idleMs : 0),
    wantsRanks: () => !pool.serves && (admission.inside > 0 || !answers),
    unasked: () => admission.unasked,
    onEnter: (listener: () => void) => admission.onEnter(listener),
  };
  server.add(Control, controlHandlers({ identity, podName, namespace, deployment, log, onMembership, onPlan, ...state }));
  const grpcPort = await server.listen(host, config.grpcPort);
  opened.defer(() => server.close(controlCloseMs));
  opened.defer(() => pool.close());
  const ask = { self: identity, namespace, name: deployment, tls, network, log };
  const addresses = options.peers ?? (async () => (config.peersDns ? resolvePeers(config.peersDns, grpcPort, config.podIp, log) : []));
  opened.defer(untilKnown(pool, async () => (await askPeers(await addresses(), ask)).membership, onMembership));
  const drain = () => {
    draining = true;
    pool.leave();
  };
  const canAnswer = () => {
    answers = true;
  };
  const fingerprint = () => fingerprintOf(modelDigest, pool.membership()?.members ?? []);
  return { pool, readiness, grpcPort, drain, canAnswer, fingerprint };
}

function awayReports(metrics: Metrics<"gateway">, log: Log) {
  return {
    onAway: (rank: number, error: AppError) => {
      metrics.add("enodia_gateway_suspicions_total", 1, { reason: error.code === "Silent" ? "silent" : "lost" });
      log.warn({ rank, reason: error.message }, "worker is away; its requests go on elsewhere");
    },
    onOtherClass: (rank: number, before: string, now: string) =>
      log.warn({ rank, before, now }, "a request goes on in another numerics class; its text may differ from here on"),
    onBack: (rank: number) => log.info({ rank }, "worker answers again"),
    onRole: (role: RankRole | undefined) => metrics.add("enodia_gateway_role_requests_total", 1, { role: role ?? "both" }),
  };
}

function routingReports(metrics: Metrics<"gateway">): Pick<PoolOptions, "onChosen" | "onPrefixes"> {
  return {
    onChosen: (by, found) => {
      metrics.add("enodia_gateway_choices_total", 1, { by });
      metrics.add("enodia_gateway_found_tokens_total", found);
    },
    onPrefixes: (kind) => metrics.add("enodia_gateway_prefix_updates_total", 1, { kind }),
  };
}

function showWorkers(pool: WorkerPool, metrics: Metrics<"gateway">): void {
  for (const [state, count] of Object.entries(pool.countByState())) {
    metrics.set("enodia_gateway_workers", count, { state: state as MemberState });
  }
  if (pool.version >= 0) metrics.set("enodia_membership_version", pool.version);
}

/** Returns how to stop asking. */
function untilKnown(
  pool: WorkerPool,
  ask: () => Promise<Membership | undefined>,
  onMembership: (membership: Membership) => void,
): () => void {
  const round = async () => {
    if (pool.version >= 0) return clearInterval(timer);
    const membership = await ask();
    if (membership && membership.version > pool.version) onMembership(membership);
  };
  const timer = setInterval(() => void round(), askPeersEveryMs);
  void round();
  return () => clearInterval(timer);
}

/** New requests are refused after this long without a ready worker. */
const unreadyGraceMs = 60_000;

export class Readiness {
  readonly #pool: WorkerPool;
  readonly #health: Health;
  readonly #log: Log;
  #readyUntil = 0;
  #textDigest: string | undefined;

  constructor(pool: WorkerPool, health: Health, log: Log) {
    this.#pool = pool;
    this.#health = health;
    this.#log = log;
  }

  /** The tokenizer is loaded from files with this digest. */
  hasText(digest: string): void {
    this.#textDigest = digest;
    this.#health.ready("text");
  }

  apply(membership: Membership): void {
    this.#compareText(membership);
    const wasReady = this.#pool.serves;
    if (!this.#pool.apply(membership)) return;
    const { serves } = this.#pool;
    const holdMs = this.#pool.holdMs();
    if (serves || holdMs > 0) this.#health.ready("workers");
    else this.#health.notReady("workers", `none of ${membership.members.length} workers is ready`);
    if (wasReady && !serves) this.#readyUntil = performance.now() + unreadyGraceMs;
    const members = membership.members.map(({ rank, state }) => `${rank}:${state}`).join(" ");
    this.#log.info({ version: membership.version, members, ...(holdMs > 0 ? { holdMs } : {}) }, "membership");
  }

  /** Warns if restarted ranks have other files; this process keeps its own. */
  #compareText({ members }: Membership): void {
    const { digest } = textSources(members);
    if (this.#textDigest === undefined || digest === undefined) return;
    if (digest === this.#textDigest) this.#health.ready("text");
    else this.#health.warn("text", "most ranks have another tokenizer or chat template than this gateway; restart the gateways");
  }

  /** Requests still wait for a worker that was lost a moment ago. */
  unavailable(): string | undefined {
    if (this.#pool.serves || this.#pool.holdMs() > 0 || performance.now() < this.#readyUntil) return undefined;
    return this.#health.reasons().find((reason) => reason.startsWith("workers:")) ?? "none is ready";
  }
}
