// The intent of a leader that does not know which placement holds: it compares the stored plan with the workers' commits, then
// continues the plan or stores what workers have.
import type { PlacementPlan } from "../../../crds/plan.ts";
import { sameLayer } from "../../../runtime/placement/diff.ts";
import { bytesByRank } from "../../planner/problem.ts";
import { agreedModel, podsOf, speedRanks } from "../members.ts";
import type { Observed, RankView } from "../observed.ts";
import type { StoredPlacement } from "../ports.ts";
import { fromSpec, newestOf } from "../rollout/plan-object.ts";
import type { PlanReport } from "../rollout/proposal.ts";
import { done } from "./attempts.ts";
import type { Intent, Made, Tools } from "./intent.ts";

const recoverWaitMs = 6_000;
/** After so many questions the layers of workers that do not report their commits only go forward. */
const snapshotTriesMax = 4;

export class Recover implements Intent {
  readonly kind = "recover";
  readonly cost = "look";
  readonly holdsUpOthers = true;
  readonly onWindow = false;
  #snapshotTries = 0;

  wanted({ placement }: Observed): boolean {
    return !placement.recovered;
  }

  async make({ world: { ref, uid } }: Observed, tools: Tools): Promise<Made> {
    const { placement, ports } = tools;
    const stored = await placement.read();
    const seen = tools.latest();
    const { load } = tools;
    // The former leader's speeds are reused, else plans would change at every change of leader.
    const known = new Map((stored?.status.ranks ?? []).map(({ bootId, speedPercent }) => [bootId, speedPercent]));
    for (const { bootId, hardware } of speedRanks(seen.views)) load?.speeds.seed(hardware, (known.get(bootId) ?? 0) / 100);
    const connected = seen.views.filter((view) => view.usable);
    const missing = namedRanks(seen, stored).filter((rank) => !connected.some((view) => view.rank === rank));
    if (connected.length === 0 || missing.some((rank) => awayMs(seen, rank) < recoverWaitMs))
      return { end: "wait", why: { reason: "WaitingForRanks", message: `${connected.length} workers are connected` } };
    const { snapshots, silent } = await askAll(connected);
    if (silent.length > 0 && ++this.#snapshotTries < snapshotTriesMax) {
      const message = `ranks ${silent.join(", ")} are connected and do not say what they have committed`;
      return { end: "wait", why: { reason: "MembershipUnknown", message } };
    }
    this.#snapshotTries = 0;
    const now = tools.latest();
    const plan = readable(now, stored, snapshots.length === 0 && silent.length === 0, ports);
    const ours = snapshots.filter((snapshot) => snapshot.deploymentUid === uid);
    const found = recovery(plan, ours, now.shape?.layers ?? 0, silent.length > 0);
    ports.log.info({ deployment: ref.name, recovery: found.kind, epoch: plan?.epoch ?? 0 }, "placement recovered");
    return takeUp(found, stored, tools);
  }
}

function awayMs({ now, usableAt, startedAt }: Observed, rank: number): number {
  return now - (usableAt.get(rank) ?? startedAt);
}

function namedRanks({ world }: Observed, stored: StoredPlacement | undefined): number[] {
  const named = stored?.spec.ranks ?? [];
  return named.length > 0 ? named.map(({ rank }) => rank) : Array.from({ length: world.desiredRanks }, (_, rank) => rank);
}

async function askAll(connected: readonly RankView[]): Promise<{ snapshots: PlacementPlan[]; silent: number[] }> {
  const silent: number[] = [];
  const answers = await Promise.all(
    connected.map((view) =>
      view.link?.snapshot().catch(() => {
        silent.push(view.rank);
        return undefined;
      }),
    ),
  );
  return { snapshots: answers.flatMap((answer) => answer ?? []), silent };
}

function takeUp(found: Recovery, stored: StoredPlacement | undefined, { placement, links }: Tools): Made {
  if (found.kind === "nothing") {
    placement.recoveredAs(undefined);
    return done;
  }
  const finished = found.kind !== "resume";
  const committed = finished ? found.committed : found.parent;
  placement.recoveredAs(
    committed,
    finished ? { ...reportIn(stored), phase: "Committed", committedEpoch: found.committed.epoch } : undefined,
  );
  if (committed) for (const link of links.all()) link.pushPlan(committed);
  if (found.kind === "settled") return done;
  const common = { parent: committed, announced: false, once: false };
  if (found.kind === "rewrite") {
    const reason = "written again from what workers hold";
    return { ...common, kind: "rewrite", layers: found.committed.layers, reason, limited: false };
  }
  const { plan, committed: forward } = found;
  const reason = stored?.spec.reason ?? "resumed by a new leader";
  return { ...common, kind: "resume", layers: plan.layers, reason, limited: true, announced: true, resume: { plan, committed: forward } };
}

/** The stored plan if it belongs to this deployment and model; else the workers' reports decide. */
function readable(
  seen: Observed,
  stored: StoredPlacement | undefined,
  unserved: boolean,
  { log }: Pick<Tools["ports"], "log">,
): PlacementPlan | undefined {
  if (!stored || stored.spec.deploymentUID !== seen.world.uid) return undefined;
  const deployment = seen.world.ref.name;
  try {
    const plan = fromSpec(stored.spec);
    const model = agreedModel(seen.views, podsOf(stored));
    const other = model !== undefined && model.digest !== plan.modelDigest;
    if (!other && !(unserved && overfull(seen, plan))) return plan;
    log.info({ deployment, epoch: plan.epoch }, "the stored plan is of another model or memory: a first plan is made");
  } catch (caught) {
    log.warn({ err: caught, deployment }, "the stored plan cannot be read: it is made again from what workers hold");
  }
  return undefined;
}

/** True when the plan exceeds a rank's memory: it was made for smaller experts or more memory, and ranks hold no more than that. */
function overfull({ shape, views, spec }: Observed, plan: PlacementPlan): boolean {
  if (spec.experts.oversubscription === "Allow") return false;
  const bytes = shape ? bytesByRank(shape, plan.layers) : new Map<number, number>();
  return views.some((view) => view.usable && (bytes.get(view.rank) ?? 0) > (view.report?.description?.budgetBytes ?? 0));
}

function reportIn(stored: StoredPlacement | undefined): PlanReport {
  const { layersCommitted, predicted, measured, reason } = stored?.status ?? {};
  return {
    ...(layersCommitted === undefined ? {} : { layersCommitted }),
    ...(predicted ? { predicted } : {}),
    ...(measured ? { measured } : {}),
    ...(reason === undefined ? {} : { reason }),
  };
}

type Recovery =
  | { readonly kind: "nothing" }
  | { readonly kind: "settled"; readonly committed: PlacementPlan }
  | {
      readonly kind: "resume";
      readonly parent: PlacementPlan | undefined;
      readonly plan: PlacementPlan;
      readonly committed: ReadonlySet<number>;
    }
  | { readonly kind: "rewrite"; readonly committed: PlacementPlan };

/**
 * Compares the stored plan with the workers' commits. `silent`: a connected worker did not report, so every stored layer only goes
 * forward.
 */
export function recovery(stored: PlacementPlan | undefined, snapshots: readonly PlacementPlan[], layers: number, silent = false): Recovery {
  const known = newestOf(snapshots, layers);
  if (!stored) return known ? { kind: "rewrite", committed: known } : { kind: "nothing" };
  if (!known && silent) return { kind: "resume", parent: undefined, plan: stored, committed: new Set(stored.layers.keys()) };
  if (!known) return { kind: "settled", committed: stored };
  if (known.epoch > stored.epoch) return { kind: "rewrite", committed: known };
  const committed = new Set<number>();
  let open = false;
  for (const [l, layer] of stored.layers.entries()) {
    const held = known.layers[l];
    if (!held || layer.epoch <= held.epoch) {
      // Only a commit to all, which is idempotent, shows whether a layer is committed everywhere.
      if (
        layer.epoch === stored.epoch &&
        snapshots.some((plan) => (plan.layers.find(({ layer: at }) => at === l)?.epoch ?? 0) < layer.epoch)
      ) {
        committed.add(l);
        open = true;
      }
      continue;
    }
    if (sameLayer(layer, held)) continue;
    open = true;
    if (silent) committed.add(l);
  }
  if (!open) return { kind: "settled", committed: stored };
  const parent: PlacementPlan = { ...known, layers: known.layers };
  return { kind: "resume", parent, plan: stored, committed };
}
