// One worker of the pool: its connection, the requests that it computes, and what it keeps for other gateways.
import { AppError } from "../../../crds/common.ts";
import type { RankRole } from "../../../crds/roles.ts";
import type { Inference } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Identity, type Member, toSender } from "../../net/mapping.ts";
import type { ServiceClient } from "../../net/service.ts";
import type { Generation } from "./failover.ts";
import type { Kept } from "./keep.ts";
import { KnownPrefixes } from "./known-prefixes.ts";
import type { LifeWatch } from "./life-watch.ts";
import type { Candidate } from "./policies/policy.ts";
import { namedTokensMost, type PromptBlocks } from "./prompt-blocks.ts";
import { handsOver, wantedRole } from "./roles.ts";

/** A reported queue length is valid this long. */
const reportedLoadMs = 2_000;
/** A rank that says nothing about a kept answer in this time has none. */
const keptAnswerMs = 500;

export type InferenceClient = ServiceClient<(typeof Inference)["method"]>;

export interface Lease {
  readonly generation: Generation;
  pendingTokens: number;
  /** The worker has reserved a place. */
  accepted: boolean;
  readonly cut: AbortController;
  /** Since when its next event is awaited; undefined while the client reads the last one. */
  awaitedSince: number | undefined;
  finished: boolean;
  /** Another rank, which may have keys and values of the text. */
  readonly kvRank: number | undefined;
  /** The blocks of its prompt. */
  readonly blocks: readonly string[];
  /** Tokens of `pendingTokens` that need not be computed. */
  found: number;
  /** It computes the prompt and a first token for another rank. */
  readonly handsOver: boolean;
}

export interface Worker {
  member: Member;
  client: InferenceClient | undefined;
  readonly leases: Set<Lease>;
  /** What it said last of rows that pass its layers, and when that had grown. */
  passed: { readonly count: number; readonly at: number };
  /** When it was no member any more. */
  leftAt: number | undefined;
  suspectUntil: number;
  /** Undefined for a lost worker. */
  life: LifeWatch | undefined;
  /** Load from other gateways, reported at `reportedAt`. */
  reportedTokens: number;
  reportedAt: number;
  /** Set when it speaks another wire version. */
  refused: string | undefined;
  kvUse: number | undefined;
  readonly prefixes: KnownPrefixes;
  /** The number of the last choice that took it; 0 = never. */
  lastChosen: number;
}

/** The ranks that computed a request, the last one first, and their class. */
export interface ComputedBy {
  readonly ranks: readonly number[];
  readonly numerics: string;
}

export function computedBy({ member: { rank, numerics = "" } }: Worker, before: ComputedBy = { ranks: [], numerics }): ComputedBy {
  const isSame = before.ranks[0] === rank && before.numerics === numerics;
  return isSame ? before : { ranks: [rank, ...before.ranks.filter((other) => other !== rank)], numerics };
}

export function newWorker(member: Member): Worker {
  const reported = { reportedTokens: 0, reportedAt: 0, refused: undefined, kvUse: undefined, passed: { count: 0, at: 0 } };
  const chosen = { leases: new Set<Lease>(), prefixes: new KnownPrefixes(), lastChosen: 0 };
  return { member, client: undefined, leftAt: undefined, suspectUntil: 0, life: undefined, ...reported, ...chosen };
}

export function candidateOf(worker: Worker, found: number, now: number): Candidate {
  const { member, leases, life, refused, lastChosen } = worker;
  const reported = now - worker.reportedAt < reportedLoadMs ? worker.reportedTokens : 0;
  return {
    rank: member.rank,
    state: member.state,
    suspect: worker.suspectUntil > now || life?.away === true,
    queuedTokens: sum([...leases].map((lease) => lease.pendingTokens - lease.found)) + reported,
    requests: leases.size,
    ...{ found, lastChosen, refused, role: member.role },
    numerics: member.numerics ?? "",
  };
}

/** Their requests continue elsewhere at once. */
export function cut(worker: Worker, error: AppError): void {
  for (const lease of worker.leases) lease.cut.abort(error);
  worker.leases.clear();
}

export function disconnect(worker: Worker): void {
  worker.client?.close();
  worker.client = undefined;
}

export function forget(worker: Worker, why: string): void {
  worker.life?.stop();
  worker.life = undefined;
  cut(worker, new AppError(why, { code: "Lost" }));
  disconnect(worker);
}

export function closeIfIdle(worker: Worker): void {
  if (worker.leftAt !== undefined && worker.leases.size === 0) forget(worker, "");
}

/** A boot id may become known later; a different one is a process with empty memory. */
export function sameProcess(a: Member, b: Member): boolean {
  const sameBoot = a.bootId === b.bootId || a.bootId === "" || b.bootId === "";
  return a.podUid === b.podUid && a.address === b.address && sameBoot;
}

export async function keptBy({ member }: Worker, client: InferenceClient, self: Identity, id: string): Promise<Kept[]> {
  const asked = { sender: toSender(self), id };
  const { kept, tokens, note, over } = await client.kept(asked, { deadline: Date.now() + keptAnswerMs });
  return kept ? [{ rank: member.rank, tokens, note, over }] : [];
}

/** A call that ends alone leaves the answer to be computed on, as when a gateway dies. */
export function stopKept(
  { client }: Pick<Worker, "client">,
  { generation: { keep, signal }, finished }: Pick<Lease, "generation" | "finished">,
  self: Identity,
): void {
  if (keep === undefined || finished || (keep.stays && signal.aborted)) return;
  const { id, digest } = keep;
  client?.kept({ sender: toSender(self), id, digest, stop: true }, { deadline: Date.now() + keptAnswerMs }).catch(nothing);
}

/** Undefined where no rank has a role. */
export function roleFor(
  generation: Generation,
  replayed: number,
  workers: readonly Worker[],
  blocks: Pick<PromptBlocks, "reportedTokens">,
): RankRole | undefined {
  if (workers.every(({ member }) => member.role === undefined)) return undefined;
  const there = workers.filter(({ life }) => life?.away === false);
  const reported = Math.max(0, ...there.map((worker) => blocks.reportedTokens(worker, generation)));
  const known = reported >= namedTokensMost ? generation.prompt.length : reported;
  const wanted = wantedRole(generation, { replayed, known });
  // A text goes on within its class alone.
  const classes = new Set(there.flatMap(({ member }) => (member.role === "prefill" ? [] : [member.numerics])));
  const canGoOn = there.some(({ member }) => member.role === "prefill" && classes.has(member.numerics));
  return handsOver(generation, wanted, "prefill") && !canGoOn ? "decode" : wanted;
}

/** Of those that report it. */
export function meanKvUse(workers: readonly Worker[]): number | undefined {
  const reported = workers.flatMap(({ member, life, kvUse }) =>
    member.state === "active" && life?.away === false && kvUse !== undefined ? [kvUse] : [],
  );
  return reported.length === 0 ? undefined : sum(reported) / reported.length;
}

export function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

function nothing(): void {}
