// Every fault in every step of a plan: each ends in commit or in the parent, in time, and breaks no promise. The steps that
// last for a moment only cannot be hit from outside on a real cluster; here the fault strikes at the call itself.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../crds/plan.ts";
import { Session } from "../../operator/rebalance/links/session.ts";
import { defaultLimits } from "../../operator/rebalance/rollout/protocol-types.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { asOwner } from "./clock.ts";
import { SimCluster } from "./cluster.ts";

const steps = ["prepare", "commit", "release"] as const;
type Step = (typeof steps)[number];

interface Strike {
  readonly sim: SimCluster;
  /** A rank that gives an expert replica of something that the plan moves, and one that takes it. */
  readonly source: number;
  readonly target: number;
  readonly plan: PlacementPlan;
}

const healMs = 9_000;
/** Loads without room wait until there is some, here beyond the deadline of the plan. */
const fullMs = defaultLimits.prepareMs + healMs;
const ranks = 3;
const operator = -2;

const noRoom = "memory of the target full";

const faults: Readonly<Record<string, (strike: Strike) => void>> = {
  "source killed": ({ sim, source }) => sim.worker(source).crash(2_000),
  "source gone for good": ({ sim, source }) => replace(sim, source),
  "target killed": ({ sim, target }) => sim.worker(target).crash(2_000),
  "target gone for good": ({ sim, target }) => replace(sim, target),
  "operator killed": ({ sim }) => {
    sim.stopOperator();
    sim.resumed = true;
    sim.clock.after(2_000, () => sim.startOperator());
  },
  "link of the target cut": ({ sim, target }) => {
    const others = [operator, ...Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => rank !== target)];
    const pairs = others.map((other) => `${Math.min(other, target)}:${Math.max(other, target)}`);
    for (const pair of pairs) sim.troubles.cuts.add(pair);
    sim.clock.after(healMs, () => {
      for (const pair of pairs) sim.troubles.cuts.delete(pair);
    });
  },
  "bytes corrupt": ({ sim }) => {
    sim.troubles.corruptNext = 1_000;
    sim.clock.after(healMs, () => {
      sim.troubles.corruptNext = 0;
    });
  },
  [noRoom]: ({ sim, target, plan }) => {
    const release = sim.worker(target).fillUp(plan);
    sim.clock.after(fullMs, release);
  },
};

/** The pod is deleted; another takes its rank. */
function replace(sim: SimCluster, rank: number): void {
  const worker = sim.worker(rank);
  worker.crash(undefined);
  sim.pods.delete(worker.podUid);
  sim.refresh();
  sim.clock.after(healMs, () => {
    sim.addPod(rank);
    sim.refresh();
  });
}

/**
 * Runs `strike` once, when the first call of a step of the plan after `epoch` has been answered. For Prepare: `workMs` after it,
 * when it is at work.
 */
function atStep(sim: SimCluster, step: Step, { epoch, workMs }: { epoch: number; workMs: number }, strike: () => void): () => void {
  const holder = Session.prototype as unknown as Record<Step, (...args: unknown[]) => Promise<unknown>>;
  const original = holder[step];
  let struck = false;
  const once = (): void => {
    if (!struck) asOwner(undefined, strike); // the call belongs to the operator, the fault does not
    struck = true;
  };
  holder[step] = async function (this: Session, ...args: unknown[]) {
    const [what] = args;
    const mine = (typeof what === "number" ? what : (what as PlacementPlan).epoch) > epoch;
    if (mine && step === "prepare" && workMs > 0) sim.clock.after(workMs, once);
    else if (mine && step === "prepare") once();
    const answer = await original.apply(this, args);
    if (mine && step !== "prepare") once();
    return answer;
  };
  return () => {
    holder[step] = original;
  };
}

function endsOfAMove(parent: PlacementPlan, plan: PlacementPlan): { source: number; target: number } {
  const [move] = diffPlans(parent.layers, plan.layers, () => 0).moves;
  assert.ok(move, "the plan moves something");
  const source = parent.layers[move.layer]?.hosts[move.expert]?.find((rank) => rank !== move.rank);
  assert.ok(source !== undefined);
  return { source, target: move.rank };
}

/** Runs one fault at one step, and returns what came of it in words. */
async function inTable(fault: string, step: Step): Promise<string> {
  const trigger = { window: "3s", minTokens: 500 };
  const sim = new SimCluster({
    seed: 7,
    ranks,
    shape: { layers: 6, experts: 6, bytes: 100, budgetBytes: 2200 },
    spec: { rebalancing: { trigger, interval: "3s" } },
  });
  sim.demand = (layer) => Array.from({ length: 6 }, (_, e) => 600 * 0.5 ** ((e + layer) % 6) + 10);
  for (let rank = 0; rank < ranks; rank++) sim.troubles.slow.set(rank, 20);
  let struckAt = 0;
  const restore = atStep(sim, step, { epoch: 1, workMs: fault === noRoom ? 0 : 300 }, () => {
    const plan = sim.plan();
    assert.ok(parent && plan);
    struckAt = sim.clock.now();
    faults[fault]?.({ sim, plan, ...endsOfAMove(parent, plan) });
    sim.respec({ rebalancing: { mode: "Off", trigger } }); // the plan under way is the last one for balance
    sim.refresh();
  });
  let parent: PlacementPlan | undefined;
  try {
    sim.startOperator();
    assert.ok(await sim.clock.run(60_000, () => sim.converged()), "the first plan is committed");
    parent = sim.plan();
    assert.ok(await sim.clock.run(60_000, () => struckAt > 0), "the step is reached");
    const boundMs = defaultLimits.prepareMs + defaultLimits.catchUpMs + defaultLimits.releaseMs + healMs;
    const settled = (): boolean => ["Committed", "Aborted"].includes(sim.stored?.status.phase ?? "") && sim.loop !== undefined;
    await sim.clock.run(1_000);
    assert.ok(await sim.clock.run(boundMs, settled), `still ${sim.stored?.status.phase} after ${boundMs} ms`);
    const outcome = `${sim.stored?.status.phase} ${Math.round(sim.clock.now() - struckAt)} ms after the fault: ${sim.stored?.status.reason}`;
    if (fault === noRoom && step === "prepare") assert.match(outcome, /kept their parent: not ready within/);
    sim.troubles.slow.clear();
    assert.ok(await sim.clock.run(120_000, () => sim.converged()), "every expert is where the plan says");
    assert.deepEqual(sim.faults(), []);
    return outcome;
  } finally {
    restore();
  }
}

for (const fault of Object.keys(faults)) {
  for (const step of steps) test(`${fault} in step ${step}`, async (t) => t.diagnostic(await inTable(fault, step)));
}
