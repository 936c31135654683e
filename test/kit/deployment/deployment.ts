// Builders of deployments, pods and views for tests of the deployment plane.
import { type MoEDeployment, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import type { GatewayFacts, PodFacts, Snapshot } from "../../../operator/deployment/core/snapshot.ts";
import type { MemberView, ModelView, RebalanceView } from "../../../operator/deployment/core/world.ts";
import type { Settings } from "../../../operator/deployment/objects/context.ts";

export const now = new Date("2026-03-01T10:00:00Z");
export const settings: Settings = {
  namespace: "enodia-system",
  runtimeImage: "enodia/runtime:test",
  pullPolicy: "IfNotPresent",
  natsUrl: "nats://nats.test:4222",
  natsCreds: undefined,
  natsSecrets: undefined,
  otlpEndpoint: undefined,
  networkPolicies: undefined,
  logLevel: "info",
  hub: undefined,
};

export function deployment(spec: object = {}, status: object = {}, metadata: object = {}): MoEDeployment {
  return parseMoEDeployment({
    metadata: { name: "moe", namespace: "ns", uid: "uid-moe", generation: 1, resourceVersion: "1", ...metadata },
    spec: { model: { uri: "pvc://models/moe" }, replicas: 3, ...spec },
    status,
  });
}

export function pod(rank: number, more: Partial<PodFacts> = {}): PodFacts {
  const uid = more.uid ?? `pod-${rank}`;
  return {
    rank,
    name: `moe-${rank}-abcde`,
    uid,
    ip: `10.0.0.${rank + 1}`,
    node: `node-${rank}`,
    zone: undefined,
    ready: true,
    terminating: false,
    silent: false,
    lost: false,
    terminal: false,
    gates: [],
    templateHash: "new",
    model: "models/models/moe#q4_0",
    image: settings.runtimeImage,
    createdMs: now.getTime() - 60_000,
    leaving: undefined,
    mustGo: "",
    goneInMs: undefined,
    unreadySinceMs: (more.ready ?? true) ? undefined : now.getTime() - 1000,
    restarts: 0,
    problem: "",
    ...more,
  };
}

export function member(rank: number, more: Partial<MemberView> = {}): MemberView {
  return {
    rank,
    podUid: `pod-${rank}`,
    bootId: `boot-${rank}`,
    connected: true,
    active: true,
    ready: true,
    notReadyReason: "",
    draining: false,
    activeRequests: 0,
    epoch: 1,
    hostedBytes: 0,
    budgetBytes: 0,
    denseBytes: 0,
    kvBytes: 0,
    uniqueBytes: 0,
    ...more,
  };
}

const verdict = { status: "True", reason: "Fine", message: "fine" } as const;
const Mi = 2 ** 20;

/** 2 layers x 8 experts of 1 MiB. */
export const model: ModelView = {
  digest: "d",
  architecture: "Mixtral",
  layers: 2,
  experts: 8,
  topK: 2,
  expertBytes: 16 * Mi,
  largestExpertBytes: Mi,
  denseBytes: 10 * Mi,
  kvBytes: 4 * Mi,
  kvSlots: 64,
  kvTokens: 4096,
  maxContext: 2048,
  backends: ["cpu"],
};

export function view(more: Partial<RebalanceView> = {}): RebalanceView {
  return {
    members: [],
    gateways: [],
    model: undefined,
    digestMismatch: [],
    unhostedExperts: 0,
    expertsWithoutRank: 0,
    loadingRanks: [],
    expertsAtRisk: 0,
    drains: [],
    modelAvailable: verdict,
    reproducible: verdict,
    telemetryFresh: verdict,
    placementBalanced: verdict,
    placement: { epoch: 1 },
    telemetry: { ranksReporting: 0, ranksExpected: 0 },
    ...more,
  };
}

export function gatewayFacts(more: Partial<GatewayFacts> = {}): GatewayFacts {
  return { ready: 1, replicas: 1, message: "", createError: "", unscaled: "", ...more };
}

export function snapshot(more: Partial<Snapshot> = {}): Snapshot {
  return {
    now,
    deployment: deployment(),
    pods: [],
    orphans: { workers: [], gateways: 0 },
    gateway: gatewayFacts(),
    templateHash: "new",
    rollout: undefined,
    runtimeImage: { pinned: settings.runtimeImage, offered: settings.runtimeImage, own: undefined },
    refusals: [],
    conflicts: [],
    claim: "Present",
    view: undefined,
    delivery: { pending: undefined, revision: undefined, away: "" },
    switching: false,
    warmingUp: false,
    ...more,
  };
}
