// The rebalance plane's view of one deployment for the deployment plane and `kubectl get`.

import { backendOf } from "../../../crds/backends.ts";
import { sum } from "../../../runtime/placement/imbalance.ts";
import type { DrainView, MemberView, ModelView, RebalanceView, Verdict } from "../../deployment/ports.ts";
import { stagingBytes } from "../../planner/problem.ts";
import type { LoadSnapshot, Observed, PlacementFacts, RankView, TelemetryFacts, Why } from "../observed.ts";
import { expertsOversubscribed } from "./oversubscribed.ts";

export interface Progress {
  readonly drains: readonly DrainView[];
  readonly rollout: { readonly kind: string; readonly phase: string; readonly moves: number } | undefined;
  readonly load: LoadSnapshot | undefined;
  readonly waiting: Why | undefined;
}

export type ViewInput = Progress &
  Pick<Observed, "world" | "views" | "gateways" | "shape" | "signals" | "expertsAtRisk" | "uniqueBytes" | "unheld" | "telemetry"> & {
    readonly epoch: number | undefined;
    readonly lastRebalance: PlacementFacts["lastRebalance"];
  };

export function rebalanceView(input: ViewInput): RebalanceView {
  const { unheld, load } = input;
  return {
    members: input.views.map((view) => memberView(view, input)),
    gateways: input.gateways,
    model: modelView(input),
    digestMismatch: input.views.filter((view) => view.mismatch).map((view) => view.rank),
    unhostedExperts: unheld.unhosted,
    expertsWithoutRank: unheld.withoutRank,
    loadingRanks: unheld.loading,
    expertsAtRisk: input.expertsAtRisk,
    drains: input.drains,
    modelAvailable: modelAvailable(input),
    reproducible: reproducible(input.views),
    telemetryFresh: telemetryFresh(input.telemetry),
    placementBalanced: placementBalanced(input),
    expertsOversubscribed: expertsOversubscribed(input),
    placement: {
      ...(input.epoch === undefined ? {} : { placementRef: { name: input.world.ref.name }, epoch: input.epoch }),
      ...(input.rollout ? { phase: input.rollout.phase } : input.epoch === undefined ? {} : { phase: "Committed" }),
      ...(load?.measured ? { imbalancePercent: Math.round(load.measured.worst * 100) } : {}),
      ...(load?.bound !== undefined && Number.isFinite(load.bound) ? { boundPercent: Math.round(load.bound * 100) } : {}),
      ...(input.lastRebalance ? { lastRebalance: input.lastRebalance } : {}),
    },
    telemetry: {
      ...(input.telemetry.lastSampleMs > 0 ? { lastSampleTime: new Date(input.telemetry.lastSampleMs).toISOString() } : {}),
      ranksReporting: input.telemetry.reporting,
      ranksExpected: input.telemetry.expected,
    },
  };
}

/** A key whose change wakes the deployment plane; it leaves out times and unused figures. */
export function changeKey(view: RebalanceView): string {
  const { imbalancePercent: _, boundPercent: __, ...placement } = view.placement ?? {};
  return JSON.stringify({
    ...view,
    unhostedExperts: undefined,
    members: view.members.map(({ activeRequests: _, hostedBytes: __, served: ___, signals: ____, ...member }) => member),
    gateways: view.gateways.map(({ idleMs, ...gateway }) => ({ ...gateway, tells: idleMs !== undefined })),
    telemetry: { ...view.telemetry, lastSampleTime: undefined },
    telemetryFresh: view.telemetryFresh.reason,
    placementBalanced: view.placementBalanced.reason,
    expertsOversubscribed: view.expertsOversubscribed?.reason,
    placement,
  });
}

function memberView(view: RankView, input: ViewInput): MemberView {
  const status = view.report?.status;
  const description = view.report?.description;
  return {
    rank: view.rank,
    podUid: view.pod.uid,
    bootId: description?.bootId ?? "",
    connected: view.report !== undefined && view.report.downSince === undefined,
    active: view.state === "active",
    ready: status?.ready ?? false,
    notReadyReason: view.mismatch ? "DigestMismatch" : (status?.notReadyReason ?? view.report?.lastError ?? "NotConnected"),
    draining: status?.draining ?? false,
    activeRequests: status?.activeRequests ?? 0,
    epoch: status?.epoch ?? 0,
    hostedBytes: status?.hostedBytes ?? 0,
    budgetBytes: description?.budgetBytes ?? 0,
    denseBytes: description?.denseBytes ?? 0,
    kvBytes: description?.kvBytes ?? 0,
    uniqueBytes: input.uniqueBytes.get(view.rank) ?? 0,
    served: status?.served,
    signals: input.signals.get(view.pod.uid),
    ...(view.role ? { role: view.role } : {}),
  };
}

function modelView(input: ViewInput): ModelView | undefined {
  const description = input.views.find((view) => view.report?.description && !view.mismatch)?.report?.description;
  if (!description || !input.shape) return undefined;
  return {
    digest: description.modelDigest,
    architecture: description.architecture,
    layers: description.layers,
    experts: description.experts,
    layerExperts: description.layerExperts,
    topK: description.topK,
    expertBytes: sum(input.shape.residentBytes),
    largestExpertBytes: stagingBytes(input.shape),
    denseBytes: description.denseBytes,
    kvBytes: description.kvBytes,
    kvSlots: description.kvSlots,
    kvTokens: description.kvTokens,
    maxContext: description.maxContext,
    backends: [...new Set(devicesOf(input).map(backendOf))],
  };
}

const devicesOf = ({ views }: ViewInput): string[] => [...new Set(views.flatMap((view) => view.report?.description?.device ?? []))].sort();

function modelAvailable(input: ViewInput): Verdict {
  const mismatch = input.views.filter((view) => view.mismatch).map((view) => view.rank);
  if (mismatch.length > 0) {
    return {
      status: "False",
      reason: "DigestMismatch",
      message: `ranks ${mismatch.join(", ")} hold another model than the others: their claim or folder differs`,
    };
  }
  const text = otherText(input.views);
  if (text.length > 0) {
    const message = `ranks ${text.join(", ")} have another tokenizer or chat template than the others: their claim or folder differs, or was changed since they started`;
    return { status: "False", reason: "DigestMismatch", message };
  }
  if (!input.shape)
    return { status: "Unknown", reason: "Opening", message: input.waiting?.message ?? "no worker has opened the model yet" };
  return { status: "True", reason: "Resolved", message: `all connected ranks hold the same model, on ${devicesOf(input).join("; ")}` };
}

/** Ranks whose text files differ from the majority's; releases that report none do not count. */
function otherText(views: ViewInput["views"]): readonly number[] {
  const byDigest = Map.groupBy(
    views.filter(({ report }) => (report?.description?.textDigest ?? "") !== ""),
    ({ report }) => report?.description?.textDigest,
  );
  const [, ...others] = [...byDigest.values()].sort((a, b) => b.length - a.length);
  return others.flatMap((ranks) => ranks.map(({ rank }) => rank)).sort((a, b) => a - b);
}

const classesShown = 4;

/** True where a request has the same text on every rank, also after a failover. */
function reproducible(views: ViewInput["views"]): Verdict {
  const ranks = Map.groupBy(
    views.filter((view) => view.report?.description !== undefined && !view.mismatch),
    (view) => view.report?.description?.numerics ?? "",
  );
  const [first = "", ...others] = ranks.keys();
  if (ranks.size === 0) return { status: "Unknown", reason: "NotObserved", message: "no worker was reached yet" };
  if (others.length === 0 && first === "")
    return {
      status: "Unknown",
      reason: "NotReported",
      message: "the workers' image is older than this condition and does not say how it computes",
    };
  if (others.length === 0 && first.startsWith("exact"))
    return { status: "True", reason: "Exact", message: `all ranks compute alike, ${first}` };
  if (others.length === 0) {
    const message = `the text of a request may change where it moves to another rank: ${first}; runtime.backend cpu computes exactly`;
    return { status: "False", reason: "ToleranceDevice", message };
  }
  const classes = [...ranks].slice(0, classesShown).map(([numerics, of]) => `ranks ${of.map(({ rank }) => rank).join(", ")} ${numerics}`);
  const more = ranks.size > classesShown ? ` and ${ranks.size - classesShown} more classes` : "";
  const remedy = "give all workers nodes of one kind (podTemplate.spec.nodeSelector) and one runtime image, or wait for the end of a roll";
  const message = `the text of a request may change where it moves to a rank of another class: ${classes.join("; ")}${more}; ${remedy}`;
  return { status: "False", reason: "MixedClasses", message };
}

function telemetryFresh(facts: TelemetryFacts): Verdict {
  const { bus, staleAfterMs, reporting, expected, keyProblem } = facts;
  if (keyProblem) return { status: "False", reason: "SigningKeyMissing", message: `load messages are refused: ${keyProblem}` };
  if (expected === 0) return { status: "Unknown", reason: "NoRanks", message: "no rank serves yet" };
  if (reporting < expected) return notHeard(facts);
  const message = `all ${expected} ranks have reported load within ${staleAfterMs / 1000} s`;
  if (facts.onNats === expected) return { status: "True", reason: "Fresh", message: `${message}, on NATS` };
  return {
    status: "True",
    reason: "FreshOnControl",
    message: `${message}, ${expected - facts.onNats} of them on Control: ${natsTrouble(bus)}`,
  };
}

const unusedNats = "which is not used where it needs credentials and spec.telemetry.nats.credentialsSecretRef is missing";

function natsTrouble(bus: TelemetryFacts["bus"]): string {
  if (!bus) return `no NATS server is named, ${unusedNats}`;
  return bus.connected ? "NATS brings nothing of them" : `NATS: ${bus.message ?? bus.reason}`;
}

function notHeard({ bus, staleAfterMs, reporting, expected, joining, lastSampleMs, refused, overQuota }: TelemetryFacts): Verdict {
  if (!bus && lastSampleMs === 0) {
    const message = `no load came yet; a workers' image that is older than load on Control needs a NATS server: spec.telemetry.nats.url, or the operator's default, ${unusedNats}`;
    return { status: "Unknown", reason: "NotConfigured", message };
  }
  const said = reporting === 0 ? `no load message within ${staleAfterMs} ms` : `${reporting} of ${expected} ranks report load`;
  const quota = overQuota ? "; pods send more than the quota of their deployment, which waits or is dropped" : "";
  const why = (refused === undefined ? "" : `; the last message refused: ${refused}`) + quota;
  if (bus && !bus.connected) {
    const reason = /^Credentials(NotFound|Refused)$/.test(bus.reason) ? bus.reason : "NATSUnavailable";
    return { status: "False", reason, message: `${said}${why}; ${natsTrouble(bus)}` };
  }
  if (reporting > 0 && reporting + joining >= expected) {
    return { status: "Unknown", reason: "PartialRanks", message: `${said}; ${joining} joined less than ${staleAfterMs} ms ago` };
  }
  return { status: "False", reason: reporting === 0 ? "Stale" : "PartialRanks", message: `${said}${why}` };
}

function placementBalanced(input: ViewInput): Verdict {
  const { rollout, waiting } = input;
  const decision = input.load?.decision;
  if (rollout) return { status: "False", reason: "Rebalancing", message: `${rollout.kind}: ${rollout.moves} moves, ${rollout.phase}` };
  if (waiting) return { status: "Unknown", reason: waiting.reason, message: waiting.message };
  if (!decision) return { status: "Unknown", reason: "Unknown", message: "no full window of load yet" };
  if (decision.act && decision.reason === "Imbalanced") return { status: "False", reason: "Imbalanced", message: decision.message };
  if (decision.act || decision.reason === "Balanced" || decision.reason === "SingleRank")
    return { status: "True", reason: "Balanced", message: decision.message };
  const known = decision.numbers.imbalancePercent !== undefined || decision.numbers.beforePercent !== undefined;
  return known || decision.reason === "ModeOff"
    ? { status: "False", reason: "RebalanceSuppressed", message: `${decision.reason}: ${decision.message}` }
    : { status: "Unknown", reason: "Unknown", message: `${decision.reason}: ${decision.message}` };
}
