// The gateway's workers: membership, a gRPC client per live pod, load and health. It cuts the streams of lost pods at once.
import { AppError } from "../../../crds/common.ts";
import { type MemberState, memberStates, type PrefixUpdate, type RoutingPolicyName, type RoutingReason } from "../../../crds/names.ts";
import type { RankRole } from "../../../crds/roles.ts";
import { slackMs } from "../../net/call-deadline.ts";
import { Inference } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus, type Network } from "../../net/grpc.ts";
import { type Identity, type Membership, toSender } from "../../net/mapping.ts";
import { whenReady } from "../../net/ready.ts";
import { serverNames, type TlsSource } from "../../net/tls.ts";
import { steadyClock } from "../../observe/steady-clock.ts";
import type { Span, Tracing } from "../../observe/trace.ts";
import { type Choice, choose } from "./choose-worker.ts";
import { ConversationHosts } from "./conversation-hosts.ts";
import type { Attempt, Generation, Shunned, WorkerEvent, Workers } from "./failover.ts";
import type { Kept } from "./keep.ts";
import { LifeWatch, lookEveryMs } from "./life-watch.ts";
import { policies } from "./policies/index.ts";
import type { Candidate } from "./policies/policy.ts";
import {
  type ComputedBy,
  candidateOf,
  closeIfIdle,
  computedBy,
  cut,
  disconnect,
  forget,
  type InferenceClient,
  keptBy,
  type Lease,
  meanKvUse,
  newWorker,
  roleFor,
  sameProcess,
  stopKept,
  sum,
  type Worker,
} from "./pool-worker.ts";
import { PromptBlocks } from "./prompt-blocks.ts";
import { prefixHash } from "./rendezvous.ts";
import { handsOver } from "./roles.ts";
import { fromMessage, toRequest } from "./worker-messages.ts";

/** A rank that just failed gets no request for this long, unless its pod changed. */
const suspectMs = 1_000;
/** An answer in decode counts at most this, since its length is unknown. */
const decodeTokensCounted = 128;
/** A stream at a rank that is no member any more stands for this long; peers may refuse what it asks of them. */
const leftSilentMs = 2_000;
/** A slower worker's node or link is gone. */
const connectTimeoutMs = 2_000;
/** After the first rank that keeps an answer, others that keep more of it have this long to say so. */
const moreKeptMs = 50;

export interface PoolOptions {
  readonly identity: Identity;
  readonly namespace: string;
  readonly deployment: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connect">;
  readonly tracing: Tracing;
  readonly onAway?: (rank: number, error: AppError) => void;
  readonly onBack?: (rank: number) => void;
  /** Its text may differ from here on. */
  readonly onOtherClass?: (rank: number, before: string, now: string) => void;
  readonly routing: RoutingPolicyName;
  /** `found`: tokens of the prompt that were known to be at the rank that was chosen. */
  readonly onChosen?: (by: RoutingReason, found: number) => void;
  readonly onPrefixes?: (change: PrefixUpdate) => void;
  /** Undefined: a rank of both. Not called where no rank has a role. */
  readonly onRole?: (role: RankRole | undefined) => void;
  readonly now?: () => number;
}

export class WorkerPool implements Workers {
  readonly #options: PoolOptions;
  readonly #workers = new Map<number, Worker>();
  readonly #waiting = new Set<() => void>();
  readonly #now: () => number;
  readonly #looks: NodeJS.Timeout;
  /** Members that are not lost, and former ones with requests. */
  readonly #watched = new Set<Worker>();
  readonly #last = new WeakMap<Generation, ComputedBy>();
  readonly #conversations = new ConversationHosts();
  readonly #blocks: PromptBlocks;
  #choices = 0;
  #version = -1;
  #holdMs = 0;
  #leaving = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#now = options.now ?? steadyClock();
    this.#blocks = new PromptBlocks(options.routing, this.#now);
    this.#looks = setInterval(() => this.#look(), lookEveryMs);
    this.#looks.unref();
  }

  /** -1 while no membership is known. */
  get version(): number {
    return this.#version;
  }

  /** False for a membership that is not newer. */
  apply(membership: Membership): boolean {
    if (membership.version < this.#version) return false;
    this.#version = membership.version;
    this.#holdMs = membership.holdMs ?? 0;
    const seen = new Set<number>();
    for (const member of membership.members) {
      seen.add(member.rank);
      const known = this.#workers.get(member.rank);
      if (known === undefined) this.#workers.set(member.rank, newWorker(member));
      else if (sameProcess(known.member, member)) known.member = member;
      else {
        forget(known, `rank ${member.rank} was replaced`);
        this.#workers.set(member.rank, newWorker(member));
      }
      const worker = this.#worker(member.rank);
      if (member.state === "lost") forget(worker, `rank ${member.rank} is lost`);
      else worker.life ??= this.#watch(worker);
    }
    // A rank that left is not lost: its requests finish while tokens come, or its engine computes.
    for (const [rank, worker] of this.#workers) {
      if (seen.has(rank)) continue;
      this.#workers.delete(rank);
      worker.leftAt = this.#now();
      closeIfIdle(worker);
    }
    this.#notify();
    return true;
  }

  membership(): Membership | undefined {
    if (this.#version < 0) return undefined;
    const members = [...this.#workers.values()].map((worker) => worker.member);
    return { version: this.#version, members, ...(this.#holdMs > 0 ? { holdMs: this.#holdMs } : {}) };
  }

  /** Positive only while the deployment is scaled to zero. */
  holdMs(): number {
    return this.serves ? 0 : this.#holdMs;
  }

  get serves(): boolean {
    return [...this.#workers.values()].some(({ member }) => member.state === "active");
  }

  countByState(): Record<MemberState, number> {
    const counts = Object.fromEntries(memberStates.map((state) => [state, 0])) as Record<MemberState, number>;
    for (const worker of this.#workers.values()) counts[worker.member.state]++;
    return counts;
  }

  start(generation: Generation, replay: readonly number[], shunned: Shunned): Attempt | { readonly none: string } {
    const last = this.#last.get(generation);
    const before = replay.length > 0 ? last?.numerics : undefined;
    const wanted = roleFor(generation, replay.length, [...this.#workers.values()], this.#blocks);
    const { rank, reason, by = "home" } = this.#choose(generation, shunned, { numerics: before, role: wanted });
    if (rank === undefined) return { none: reason };
    const worker = this.#worker(rank);
    const { numerics = "", role } = worker.member;
    if (wanted !== undefined) this.#options.onRole?.(role);
    const blocks = this.#blocks.of(worker, generation);
    const found = this.#blocks.found(worker, generation);
    if (before !== undefined && before !== numerics) this.#options.onOtherClass?.(rank, before, numerics);
    const lease: Lease = {
      generation,
      pendingTokens: generation.prompt.length + replay.length,
      accepted: false,
      cut: new AbortController(),
      awaitedSince: this.#now(),
      finished: false,
      kvRank: this.#kvRank(worker, generation, last?.ranks),
      blocks,
      found,
      handsOver: handsOver(generation, wanted, role),
    };
    worker.leases.add(lease);
    worker.lastChosen = ++this.#choices;
    worker.prefixes.expect(blocks);
    this.#options.onChosen?.(by, found);
    const attributes = { "enodia.rank": rank, "enodia.replay_tokens": replay.length, "enodia.routing": by, "enodia.found_tokens": found };
    const span = this.#options.tracing.start("worker.generate", { parent: generation.traceparent, role: "client", attributes });
    return {
      rank,
      handsOver: lease.handsOver,
      events: this.#events(worker, lease, replay, span),
      close: (failed) => {
        worker.leases.delete(lease);
        if (!this.#leaving) stopKept(worker, lease, this.#options.identity);
        closeIfIdle(worker);
        worker.prefixes.ended(blocks, this.#now(), failed);
        if (failed) worker.suspectUntil = this.#now() + suspectMs;
        lease.cut.abort();
        span.end();
        if (lease.accepted && !failed) this.#notifyOne();
      },
    };
  }

  /** Mean KV cache use of reporting workers. */
  kvUse(): number | undefined {
    return meanKvUse([...this.#workers.values()]);
  }

  async kept(id: string): Promise<Kept | undefined> {
    const near = [...this.#workers.values()].filter(({ life }) => life?.away === false);
    const replies: Awaited<ReturnType<typeof keptBy>> = [];
    const { promise: enough, resolve } = Promise.withResolvers<void>();
    let timer: NodeJS.Timeout | undefined;
    const ask = async (worker: Worker): Promise<void> => {
      replies.push(...(await keptBy(worker, this.#client(worker), this.#options.identity, id)));
      if (replies.length > 0) timer ??= setTimeout(resolve, moreKeptMs);
    };
    await Promise.race([Promise.allSettled(near.map(ask)), enough]);
    clearTimeout(timer);
    return replies.sort((a, b) => b.tokens - a.tokens)[0];
  }

  /** Its clients' connections end now, and not by their own will: ranks compute on what is kept. */
  leave(): void {
    this.#leaving = true;
  }

  changed(timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#waiting.add(done);
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted) done();
    });
  }

  close(): void {
    clearInterval(this.#looks);
    for (const worker of this.#workers.values()) forget(worker, "the gateway stops");
    this.#workers.clear();
    this.#notify();
  }

  async *#events(worker: Worker, lease: Lease, replay: readonly number[], span: Span): AsyncGenerator<WorkerEvent> {
    const { generation, cut } = lease;
    const signal = AbortSignal.any([cut.signal, generation.signal]);
    let call: ReturnType<InferenceClient["generate"]> | undefined;
    const cancel = () => call?.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    try {
      const client = this.#client(worker);
      await whenReady(client.channel, connectTimeoutMs);
      if (signal.aborted) throw new AppError("the request was taken back", { code: "Cancelled" });
      const deadline = Date.now() + generation.deadlineUnixMs - this.#now(); // gRPC uses the wall clock
      const { kvRank, handsOver } = lease;
      const request = toRequest(this.#options.identity, { generation, replay, span, deadline, kvRank, handsOver });
      call = client.generate(request, { deadline: deadline + slackMs.generate });
      call.on("error", () => {}); // the loop below throws it
      for await (const message of call) {
        const event = fromMessage(message);
        if (event === undefined) continue;
        worker.life?.heard();
        this.#account(worker, lease, event);
        lease.awaitedSince = undefined;
        lease.finished = event.type === "finish";
        yield event;
        lease.awaitedSince = this.#now();
      }
    } catch (caught) {
      const error =
        cut.signal.reason instanceof AppError ? cut.signal.reason : fromStatus(caught, `generating on rank ${worker.member.rank}`);
      span.fail(error);
      throw error;
    } finally {
      signal.removeEventListener("abort", cancel);
      cancel();
    }
  }

  #choose(
    generation: Generation,
    shunned: Shunned,
    { numerics, role }: { numerics: string | undefined; role: RankRole | undefined },
  ): Choice {
    const { home, keep, prompt } = generation;
    const at = home === undefined || shunned.avoid.has(home) ? undefined : this.#workers.get(home);
    if (at?.life?.away === false) return { rank: at.member.rank, reason: "" };
    const prefix = prefixHash(keep?.stays ? Buffer.from(keep.id) : prompt);
    return choose(this.#candidates(generation), prefix, {
      policy: policies[this.#options.routing],
      ...shunned,
      ...(numerics === undefined ? {} : { numerics }),
      conversation: this.#conversationOf(generation),
      byHash: keep?.stays === true,
      role,
    });
  }

  /** One that may have more of the text; `before`: those that computed it. */
  #kvRank(worker: Worker, generation: Generation, before: readonly number[] = []): number | undefined {
    const others = [...this.#workers.values()].filter((other) => other !== worker && other.life?.away === false);
    const isThere = (rank: number): boolean => others.some(({ member }) => member.rank === rank);
    return before.find(isThere) ?? this.#blocks.elsewhere(others, worker, generation)?.member.rank;
  }

  #conversationOf(generation: Generation) {
    const hosts = this.#conversations.of(generation);
    return hosts && { hosts, tokens: generation.prompt.length + Math.min(decodeTokensCounted, generation.maxTokens) };
  }

  #account(worker: Worker, lease: Lease, event: WorkerEvent): void {
    if (event.type === "token" || event.type === "progress") {
      lease.found = 0;
      lease.pendingTokens = Math.min(decodeTokensCounted, lease.generation.maxTokens - event.position - 1);
    }
    if (event.type === "finish") this.#conversations.learn(lease.generation, event.hosts ?? []);
    if (event.type === "started" || event.type === "token")
      this.#last.set(lease.generation, computedBy(worker, this.#last.get(lease.generation)));
    if (event.type !== "queued" && event.type !== "started") return;
    lease.accepted = true;
    if (event.again) return;
    worker.reportedTokens = Math.max(0, event.queuedTokens - sum([...worker.leases].map((other) => other.pendingTokens)));
    worker.reportedAt = this.#now();
  }

  #candidates(generation: Generation): Candidate[] {
    return [...this.#workers.values()].map((worker) => candidateOf(worker, this.#blocks.found(worker, generation), this.#now()));
  }

  #client(worker: Worker): InferenceClient {
    const { namespace, deployment, tls, network } = this.#options;
    const { address, rank } = worker.member;
    worker.client ??= network.connect(Inference, { address, serverName: serverNames.rank(rank, namespace, deployment), tls });
    return worker.client;
  }

  #watch(worker: Worker): LifeWatch {
    const { identity, onAway, onBack, onPrefixes } = this.#options;
    const { rank } = worker.member;
    this.#watched.add(worker);
    return new LifeWatch({
      rank,
      open: () => this.#client(worker).alive({ sender: toSender(identity) }),
      onAway: (error, { again, anew }) => {
        if (!again) onAway?.(rank, error);
        if (error.code === "Unimplemented") worker.refused = `rank ${rank} speaks another version of the wire than ${Inference.typeName}`;
        cut(worker, error);
        if (anew) disconnect(worker);
      },
      onHeartbeat: ({ kvUse, passed = 0, prefixes }) => {
        const change = prefixes && worker.prefixes.take(prefixes, this.#now());
        if (change !== undefined) onPrefixes?.(change);
        if (change === "gap") worker.life?.renew();
        if (passed !== worker.passed.count) worker.passed = { count: passed, at: this.#now() };
        worker.kvUse = kvUse !== undefined && kvUse >= 0 && kvUse <= 1 ? kvUse : undefined;
      },
      onBack: () => {
        worker.refused = undefined;
        onBack?.(rank);
        this.#notify();
      },
    });
  }

  #look(): void {
    for (const worker of this.#watched) {
      if (worker.life === undefined) this.#watched.delete(worker);
      else worker.life.look(performance.now());
      if (worker.leftAt !== undefined) this.#cutStanding(worker, Math.max(worker.leftAt, worker.passed.at));
    }
  }

  /** A rank that left ends its streams while their tokens come, or while its engine computes. */
  #cutStanding({ member: { rank }, leases }: Worker, since: number): void {
    for (const { awaitedSince, cut } of leases) {
      if (awaitedSince === undefined || this.#now() - Math.max(awaitedSince, since) < leftSilentMs) continue;
      const message = `rank ${rank} is no member any more, and neither sent nor computed anything for ${leftSilentMs} ms`;
      cut.abort(new AppError(message, { code: "Silent" }));
    }
  }

  #worker(rank: number): Worker {
    const worker = this.#workers.get(rank);
    if (worker === undefined) throw new AppError(`rank ${rank} is no member`, { code: "Internal" });
    return worker;
  }

  #notify(): void {
    for (const done of [...this.#waiting]) done();
  }

  /** Waking all would send all prompts for one place. */
  #notifyOne(): void {
    this.#waiting.values().next().value?.();
  }
}
