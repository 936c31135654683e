// The ports of the rebalance plane: links to workers and gateways, the placement store, the load bus, a clock. Adapters are
// links/session.ts (gRPC), rollout/store.ts (Kubernetes) and the bus that controller.ts opens (NATS).

import type { ExpertPlacementSpec, ExpertPlacementStatus } from "../../crds/expert-placement.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { Membership } from "../../runtime/net/mapping.ts";
import type { Fetched } from "../../runtime/placement/cost.ts";
import type { ServedTotals } from "../deployment/ports.ts";
import type { Identity } from "../kube/ask-pod.ts";
import type { Kube, Ref } from "../kube/kube.ts";

export type { MemberState } from "../../crds/names.ts";
export type { Member, Membership } from "../../runtime/net/mapping.ts";
export type { Clock } from "../kube/workqueue.ts";

export interface Description {
  readonly rank: number;
  readonly podUid: string;
  readonly bootId: string;
  readonly podName: string;
  readonly modelDigest: string;
  readonly architecture: string;
  readonly layers: number;
  readonly experts: number;
  /** The experts of each layer where layers differ, as in ExpertGrid. */
  readonly layerExperts?: readonly number[] | undefined;
  readonly topK: number;
  readonly codec: string;
  /** Bytes of each expert as stored, [layers * experts]; `residentBytes` are those in memory. */
  readonly storedBytes: Float64Array;
  readonly residentBytes: Float64Array;
  readonly budgetBytes: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  readonly kvSlots: number;
  readonly kvTokens: number;
  readonly maxContext: number;
  /** Backend and hardware, as "cpu: AMD EPYC". Ranks of one device count as equally fast until measured. */
  readonly device: string;
  /** What result bits depend on, "exact: …" or "tolerance: …"; ranks of one exact class compute the same text. */
  readonly numerics: string;
  /** The digest of the tokenizer and chat template; unset for releases that serve none. */
  readonly textDigest?: string;
  readonly speed: number;
}

export interface HostedLayer {
  readonly layer: number;
  readonly epoch: number;
  readonly experts: readonly number[];
}

export interface PlanMember {
  readonly bootId: string;
  readonly podName: string;
  readonly podUid: string;
  readonly budgetBytes: number;
  readonly held: ReadonlyMap<number, HostedLayer>;
}

/** What a rank's process served since it started. */
export interface RankTotals extends ServedTotals {
  /** Requests that had a first token, and the sum of the times from their arrival to it in microseconds. */
  readonly firstTokens: number;
  readonly firstTokenMicros: number;
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
  /** Its process is to end, and serves its experts until they have moved or its time is over. */
  readonly leaving: boolean;
  readonly membershipVersion: number;
  /** Totals since the process started; undefined for gateways and older releases. */
  readonly served?: RankTotals | undefined;
  /** Undefined for gateways, for older releases, and until the engine reports. */
  readonly use?: UseTotals | undefined;
  /** A gateway's requests; undefined for workers and older releases. */
  readonly front?: FrontTotals | undefined;
}

interface FrontTotals {
  /** Unix ms since which it has no request, or since it was ready; undefined while it has one. */
  readonly idleSince: number | undefined;
  /** True when no rank serves and a request needs one. */
  readonly wantsRanks: boolean;
  /** It had no request since it started. */
  readonly unasked?: boolean;
}

export interface UseTotals {
  readonly kvBlocks: number;
  readonly kvBlocksUsed: number;
  readonly tokens: number;
}

export type PrepareEvent =
  | { readonly type: "ready"; readonly layer: number; readonly bytes: number; readonly fetched: readonly Fetched[] }
  | { readonly type: "failed"; readonly layer: number; readonly message: string }
  | { readonly type: "progress"; readonly bytes: number };

/** The link to one pod, which reconnects by itself. Every call may throw AppError. */
export interface Link {
  readonly address: string;
  /** The pod's last description, undefined before the first and for gateways. A new process gives a new one. */
  readonly description: Description | undefined;
  readonly status: PodStatus | undefined;
  readonly hosted: ReadonlyMap<number, HostedLayer>;
  /** Unix ms of the first attempt to connect; Infinity before it. */
  readonly triedAt: number;
  /** Unix ms since which the stream is down; undefined while it is up. */
  readonly downSince: number | undefined;
  readonly lastError: string;
  /** Milliseconds that the pod's clock is ahead of ours; undefined until measured. */
  readonly clockAheadMs: number | undefined;
  renew(identity: Identity): void;
  /** Asks the pod to send load on this link although NATS has taken it. */
  wantLoad(wanted: boolean): void;
  push(membership: Membership): void;
  pushPlan(plan: PlacementPlan): void;
  snapshot(): Promise<PlacementPlan | undefined>;
  /** Prepares the plan's layers and calls `onEvent` for each answer. Resolves when the stream ends. */
  prepare(plan: PlacementPlan, deadline: number, maxBytesPerSecond: number, onEvent: (event: PrepareEvent) => void): Promise<void>;
  commit(plan: PlacementPlan): Promise<{ readonly committed: readonly number[]; readonly refused: string; readonly epoch: number }>;
  abort(epoch: number, layers: readonly number[]): Promise<void>;
  /** Releases the parent's expert replicas. With `drainOnly` it only reports the layers in which every frame of the parent is answered. */
  release(
    epoch: number,
    layers: readonly number[],
    drainOnly: boolean,
  ): Promise<{ readonly released: readonly number[]; readonly pending: readonly number[] }>;
  /** Tells a worker to refuse new requests and finish its own within this time, or to serve on. */
  drain(finishMs: number | "cancel"): Promise<void>;
  close(): void;
}

export interface LinkTarget {
  readonly address: string;
  readonly serverName: string;
  readonly deploymentUid: string;
  readonly kind: "worker" | "gateway";
  readonly podUid: string;
  readonly identity: Identity;
  readonly onChange: () => void;
  readonly onLoad: (message: Uint8Array) => void;
  readonly quota: { share(kind: LinkTarget["kind"]): Share };
}

/** What one pod may send. */
export interface Share {
  /** False while it has to wait. */
  mayRead(): boolean;
  /** Counts an answer before it is decoded. Throws where the deployment has nothing left and the pod is above its share by a whole burst. */
  admit(bytes: number, values: number): void;
  delayed(): void;
}

export type OpenLink = (target: LinkTarget) => Link;

export interface StoredPlacement {
  readonly uid: string;
  readonly spec: ExpertPlacementSpec;
  readonly status: ExpertPlacementStatus;
}

export interface PlacementStore extends Pick<Kube, "applyStatus"> {
  read(ref: Ref): Promise<StoredPlacement | undefined>;
  /** Creates or replaces the object. Throws `Conflict` when the stored plan is not `known`: another writer has the epoch. */
  write(ref: Ref, ownerUid: string, spec: ExpertPlacementSpec, known: StoredPlacement | undefined): Promise<StoredPlacement>;
}

export interface BusStatus {
  readonly connected: boolean;
  readonly reason: string;
  readonly message?: string;
}

export interface LoadBus {
  readonly status: BusStatus;
  subscribe(subject: string, handler: (bytes: Uint8Array, subject: string) => void): () => void;
  close(): Promise<void>;
}

export interface LoadBusOptions {
  readonly url: string;
  /** The Secret with the server's credentials, or the operator's own; undefined for none. */
  readonly credentials: Ref | "operator" | undefined;
}

export type OpenBus = (options: LoadBusOptions) => LoadBus;
