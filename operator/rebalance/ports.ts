// The outside world of the rebalance plane, as types: links to workers and gateways, the durable plan, the load bus, a clock. Adapters
// are links/session.ts (gRPC), rollout/store.ts (Kubernetes) and the bus that controller.ts opens (NATS); test/sim implements the same.

import type { ExpertPlacementSpec, ExpertPlacementStatus } from "../../crds/expert-placement.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { Membership } from "../../runtime/net/mapping.ts";
import type { Fetched } from "../../runtime/placement/cost.ts";
import type { ServedTotals } from "../deployment/ports.ts";
import type { Ref } from "../kube/kube.ts";

export type { MemberState } from "../../crds/names.ts";
export type { Member, Membership } from "../../runtime/net/mapping.ts";
export type { Clock } from "../kube/workqueue.ts";

/** A worker's description of itself, which it gives once connected. */
export interface Description {
  readonly rank: number;
  readonly podUid: string;
  readonly bootId: string;
  readonly podName: string;
  readonly modelDigest: string;
  readonly architecture: string;
  readonly layers: number;
  /** The experts of the layer that has most. */
  readonly experts: number;
  /** The experts of each layer where layers differ, as in ExpertGrid. */
  readonly layerExperts?: readonly number[] | undefined;
  readonly topK: number;
  readonly codec: string;
  /** Bytes of each expert as stored, [layers * experts]; `residentBytes` likewise, as held in memory. */
  readonly storedBytes: Float64Array;
  readonly residentBytes: Float64Array;
  readonly budgetBytes: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  /** Requests that run at once, at most. */
  readonly kvSlots: number;
  /** Tokens that the KV pool holds, of all requests together. */
  readonly kvTokens: number;
  readonly maxContext: number;
  /** Backend and hardware, as "cpu: AMD EPYC". Ranks with the same device count as equally fast until their work shows more. */
  readonly device: string;
  /** What the bits of its results depend on, "exact: …" or "tolerance: …"; ranks of one exact class compute the same text. */
  readonly numerics: string;
  /** Of the tokenizer and chat template that it serves to gateways; unset for a release that serves none. */
  readonly textDigest?: string;
  readonly speed: number;
}

export interface HostedLayer {
  readonly layer: number;
  readonly epoch: number;
  readonly experts: readonly number[];
}

/** A rank that takes part in a plan. */
export interface PlanMember {
  readonly bootId: string;
  readonly podName: string;
  readonly podUid: string;
  readonly budgetBytes: number;
  /** The experts that it really holds, by layer. */
  readonly held: ReadonlyMap<number, HostedLayer>;
}

export interface PodStatus {
  readonly epoch: number;
  readonly planHash: string;
  readonly ready: boolean;
  readonly notReadyReason: string;
  readonly hostedBytes: number;
  readonly queuedTokens: number;
  readonly activeRequests: number;
  readonly draining: boolean;
  /** Its process was told to end: it serves its experts until they are elsewhere, or its time is over. */
  readonly leaving: boolean;
  readonly membershipVersion: number;
  /** What the process has served since it started; undefined of gateways, and of workers of releases that do not say. */
  readonly served?: ServedTotals | undefined;
  /** What it uses; undefined of gateways, until the engine has told, and of workers of releases that do not say. */
  readonly use?: UseTotals | undefined;
  /** What a gateway says of the requests in front of it; undefined of workers, and of gateways of releases that do not say. */
  readonly front?: FrontTotals | undefined;
}

interface FrontTotals {
  /** Unix ms since which it has no request, or was ready for the first; undefined while it has one. */
  readonly idleSince: number | undefined;
  /** No rank serves, and one is needed. */
  readonly wantsRanks: boolean;
}

/** The attention cache as it is used now, and tokens of prompts and answers computed since the process started. */
export interface UseTotals {
  readonly kvBlocks: number;
  readonly kvBlocksUsed: number;
  readonly tokens: number;
}

export type PrepareEvent =
  | { readonly type: "ready"; readonly layer: number; readonly bytes: number; readonly fetched: readonly Fetched[] }
  | { readonly type: "failed"; readonly layer: number; readonly message: string }
  | { readonly type: "progress"; readonly bytes: number };

/** The link to one pod of the deployment, which keeps itself connected; every call may throw AppError. */
export interface Link {
  readonly address: string;
  /** The pod's last description, undefined until its first; a new process gives a new one. Gateways have none. */
  readonly description: Description | undefined;
  readonly status: PodStatus | undefined;
  /** The experts that it really holds, by layer, as it reported last. */
  readonly hosted: ReadonlyMap<number, HostedLayer>;
  /** When it was first tried to reach the pod: infinite while others have their turn before it. */
  readonly triedAt: number;
  /** Unix ms since which the stream is down; undefined while it is up. */
  readonly downSince: number | undefined;
  readonly lastError: string;
  /** Milliseconds that the clock by which the pod tells its windows of load is ahead of ours; undefined until that was measured. */
  readonly clockAheadMs: number | undefined;
  /** Makes connections from here on with this certificate. */
  renew(identity: LinkTarget["identity"]): void;
  push(membership: Membership): void;
  pushPlan(plan: PlacementPlan): void;
  snapshot(): Promise<PlacementPlan | undefined>;
  /** Prepares the plan's layers on the pod and calls `onEvent` for each answer. Resolves when the stream ends. */
  prepare(plan: PlacementPlan, deadline: number, maxBytesPerSecond: number, onEvent: (event: PrepareEvent) => void): Promise<void>;
  commit(plan: PlacementPlan): Promise<{ readonly committed: readonly number[]; readonly refused: string; readonly epoch: number }>;
  abort(epoch: number, layers: readonly number[]): Promise<void>;
  /** Gives up the parent's expert replicas. With `drainOnly` it only says of which layers every frame of the parent is answered. */
  release(
    epoch: number,
    layers: readonly number[],
    drainOnly: boolean,
  ): Promise<{ readonly released: readonly number[]; readonly pending: readonly number[] }>;
  /** Tells a worker to finish its requests within this time and to take no more, or to serve on. */
  drain(finishMs: number | "cancel"): Promise<void>;
  close(): void;
}

export interface LinkTarget {
  readonly address: string;
  /** The name that must stand in the pod's certificate. */
  readonly serverName: string;
  readonly deploymentUid: string;
  readonly kind: "worker" | "gateway";
  readonly podUid: string;
  readonly identity: { readonly cert: string; readonly key: string; readonly ca: string };
  readonly onChange: () => void;
}

export type OpenLink = (target: LinkTarget) => Link;

export interface StoredPlacement {
  readonly resourceVersion: string;
  readonly spec: ExpertPlacementSpec;
  readonly status: ExpertPlacementStatus;
}

/** The store of a deployment's ExpertPlacement. */
export interface PlacementStore {
  read(ref: Ref): Promise<StoredPlacement | undefined>;
  /** Creates or replaces the object; throws `Conflict` when the plan there is not the `known` one: the epoch is not ours then. */
  write(ref: Ref, ownerUid: string, spec: ExpertPlacementSpec, known: StoredPlacement | undefined): Promise<StoredPlacement>;
  writeStatus(ref: Ref, status: ExpertPlacementStatus): Promise<void>;
}

export interface BusStatus {
  readonly connected: boolean;
  readonly reason: string;
  readonly message?: string;
}

/** The part of the NATS adapter that is used. */
export interface LoadBus {
  readonly status: BusStatus;
  subscribe(subject: string, handler: (bytes: Uint8Array, subject: string) => void): () => void;
  close(): Promise<void>;
}

export interface LoadBusOptions {
  readonly url: string;
  /** The Secret with the server's credentials, or the operator's own; undefined where it wants none. */
  readonly credentials: Ref | "operator" | undefined;
}

export type OpenBus = (options: LoadBusOptions) => LoadBus;
