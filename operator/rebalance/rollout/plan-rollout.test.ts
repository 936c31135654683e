import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import { tracingOff } from "../../../runtime/observe/trace.ts";
import { leastShare } from "../../../runtime/placement/backoff.ts";
import { modelShape, planInput, rankSpec } from "../../../test/kit/planner/plan-input.ts";
import { VirtualClock } from "../../../test/sim/clock.ts";
import { SimCluster } from "../../../test/sim/cluster.ts";
import { fast, skewed } from "../../../test/sim/converged.ts";
import { hasCode } from "../../kube/errors.ts";
import type { Tools } from "../intents/intent.ts";
import { repair } from "../intents/repair.ts";
import { Session } from "../links/session.ts";
import type { LoadState } from "../load/load-state.ts";
import { PathRates } from "../load/rates.ts";
import type { Observed } from "../observed.ts";
import type { Link, PlacementStore, PrepareEvent, StoredPlacement } from "../ports.ts";
import { Placement } from "./placement.ts";
import { nextPlan } from "./plan-object.ts";
import { Rollout } from "./plan-rollout.ts";
import type { PlanEnd, Proposal } from "./proposal.ts";
import { defaultLimits } from "./protocol-types.ts";

const ref = { namespace: "ns", name: "moe" };
const planned = { deploymentUid: "uid", modelDigest: "d", epoch: 1 };
const sizes = Float64Array.from([1]);
const sizesOfTwo = Float64Array.from([1, 1]);
const proposal: Proposal = {
  ...{ kind: "test", reason: "test", parent: undefined, limited: false, announced: false, once: false },
  layers: [{ hosts: [[0]], weights: [[1000]] }],
};

/** A view of one usable worker. */
function seenWith(link: Link): Observed {
  const report = { description: { bootId: "b", modelDigest: "d", budgetBytes: 10 }, hosted: new Map() };
  const view = { rank: 0, pod: { name: "p", uid: "u" }, link, report, usable: true };
  const shape = { layers: 1, experts: 1, residentBytes: sizes, storedBytes: sizes };
  return { world: { ref, uid: "uid" }, spec: {}, views: [view], ranks: [], shape } as unknown as Observed;
}

interface Parts {
  readonly write: PlacementStore["write"];
  readonly links?: readonly Link[];
  /** Told when what was counted is thrown away. */
  readonly onRestart?: () => void;
}

/** A rollout over these, and what it says of its end. */
function rolling({ write, links = [], onRestart = () => {} }: Parts, wanted: Proposal, seen: Observed) {
  const placement = new Placement({ store: { read: async () => undefined, write }, ref, ownerUid: "uid" });
  placement.recoveredAs(wanted.parent);
  const ends: (PlanEnd | undefined)[] = [];
  const clock = new VirtualClock();
  const rollout = new Rollout(
    {
      ports: { clock, tracing: tracingOff, log: silentLog, event: () => {}, onRollout: (_ref, _running, done) => ends.push(done) },
      trace: "",
      placement,
      links: { all: () => [...links], planBegins: () => {} },
      load: () => ({ restart: onRestart, rates: new PathRates() }) as unknown as LoadState,
      onProgress: () => {},
    },
    wanted,
    seen,
  );
  return { placement, rollout, ends, clock };
}

const stored: StoredPlacement = { uid: "placement", spec: {} as StoredPlacement["spec"], status: {} };

test("a plan that is closed while it is being written is not pushed to anybody", async () => {
  let written = (_: StoredPlacement): void => {};
  let prepared = 0;
  const link = { prepare: async () => void prepared++, description: { bootId: "b" } } as unknown as Link;
  const write = () =>
    new Promise<StoredPlacement>((resolve) => {
      written = resolve;
    });
  const { placement, rollout, ends } = rolling({ write, links: [link] }, proposal, seenWith(link));
  const ended = rollout.run();
  rollout.stop();
  written(stored);
  await assert.rejects(ended, (error) => hasCode(error, "Stopped"));
  assert.equal(prepared, 0);
  assert.equal(placement.facts.recovered, false, "what holds is found out anew");
  assert.deepEqual(ends, [undefined], "whoever leads now says how it ended");
});

test("a process that comes up while the plan is being written is a member of the plan", async () => {
  let written = (_: StoredPlacement): void => {};
  const prepared: string[] = [];
  const linkTo = (bootId: string) => ({ prepare: async () => void prepared.push(bootId), description: { bootId } }) as unknown as Link;
  const write = () =>
    new Promise<StoredPlacement>((resolve) => {
      written = resolve;
    });
  const seen = seenWith(linkTo("b"));
  const { rollout } = rolling({ write }, proposal, seen);
  void rollout.run();
  rollout.follow({ ...seen, views: [...seen.views, { ...seen.views[0]!, rank: 1, link: linkTo("c") }] });
  rollout.joined(1, "c");
  assert.deepEqual(prepared, [], "the epoch is not taken yet");
  written(stored);
  await new Promise(setImmediate);
  assert.deepEqual(prepared.sort(), ["b", "c"]);
  rollout.stop();
});

test("nobody is told a plan of which the epoch is not taken yet, also where only the epoch is new", async () => {
  let written = (_: StoredPlacement): void => {};
  const write = () =>
    new Promise<StoredPlacement>((resolve) => {
      written = resolve;
    });
  const { plan: parent } = nextPlan(undefined, proposal.layers, new Set(), planned);
  const { rollout } = rolling({ write }, { ...proposal, parent }, seenWith({ abort: async () => {} } as unknown as Link));
  const ended = rollout.run();
  assert.equal(rollout.forJoiners()?.epoch, 1);
  written(stored);
  assert.equal(await ended, undefined);
});

test("layers that nobody holds are prepared all at once, those that are served a few at a time", async () => {
  const layer = (rank: number) => ({ hosts: [[rank]], weights: [[1000]] });
  const many = <T>(value: T) => Array.from({ length: 3 * defaultLimits.layersInFlight }, () => value);
  const { plan: parent } = nextPlan(undefined, many(layer(7)), new Set(), planned);
  const firstOf = async (atOnce: boolean): Promise<number> => {
    const prepared: number[] = [];
    const link = {
      description: { bootId: "b" },
      prepare: async (part: PlacementPlan) => void prepared.push(part.layers.length),
      abort: async () => {},
    } as unknown as Link;
    const { rollout } = rolling({ write: async () => stored }, { ...proposal, parent, layers: many(layer(0)), atOnce }, seenWith(link));
    void rollout.run();
    await new Promise(setImmediate);
    rollout.stop();
    return prepared[0] ?? 0;
  };
  assert.deepEqual([await firstOf(true), await firstOf(false)], [3 * defaultLimits.layersInFlight, defaultLimits.layersInFlight]);
});

test("a repair is such a plan", async () => {
  const ranks = [rankSpec(0), rankSpec(1, { state: "dead" })];
  const { plan } = nextPlan(undefined, [{ hosts: [[0], [1]], weights: [[1000], [1000]] }], new Set(), planned);
  const input = planInput(modelShape(1, 2), ranks, { current: plan.layers });
  const load = { input: () => input, forgetHistory: () => {} } as unknown as LoadState;
  const made = await repair.make({ plan, ranks } as unknown as Observed, { load } as unknown as Tools);
  assert.ok("atOnce" in made && made.atOnce, JSON.stringify(made));
});

test("a plan whose settled end cannot be written did not succeed", async () => {
  const { plan: parent } = nextPlan(undefined, [proposal.layers[0]!, proposal.layers[0]!], new Set(), planned);
  const host = (rank: number) => ({ hosts: [[rank]], weights: [[1000]] });
  // Layer 0 goes to rank 1, which takes it; layer 1 to a rank that is not there.
  const wanted: Proposal = { ...proposal, parent, layers: [host(1), host(7)] };
  const link = {
    description: { bootId: "b" },
    prepare: async (part: PlacementPlan, _deadline: number, _limit: number, on: (event: PrepareEvent) => void) => {
      for (const { layer } of part.layers) on({ type: "ready", layer, bytes: 1, fetched: [] });
    },
    commit: async (part: PlacementPlan) => ({ refused: "", epoch: 2, committed: part.layers.map(({ layer }) => layer) }),
    release: async (_epoch: number, layers: readonly number[]) => ({ released: layers }),
    abort: async () => {},
    pushPlan: () => {},
  } as unknown as Link;
  const seen = seenWith(link);
  const two = { ...seen, shape: { ...seen.shape!, layers: 2, residentBytes: sizesOfTwo, storedBytes: sizesOfTwo } };
  const views = [...two.views, { ...two.views[0]!, rank: 1 }];
  let writes = 0;
  const write = async () => {
    if (++writes > 1) throw new AppError("the API server does not answer", { code: "Unavailable" });
    return stored;
  };
  let restarts = 0;
  const { placement, rollout, ends } = rolling({ write, links: [link], onRestart: () => restarts++ }, wanted, { ...two, views });
  await assert.rejects(rollout.run(), (error) => hasCode(error, "Unavailable"));
  assert.equal(writes, 2, "the plan, and what holds");
  assert.equal(restarts, 1, "counts taken while experts moved say nothing of what holds");
  assert.deepEqual(ends, [undefined, { kind: "test", result: undefined }]);
  assert.equal(placement.facts.recovered, false);
});

const bytes = 100;
const limit = 50;

interface Prepare {
  readonly epoch: number;
  readonly boot: string;
  readonly forMs: number;
  readonly rate: number;
}

/** A cluster whose Prepares are noted; they go on to the workers. */
function watched(): { sim: SimCluster; prepares: Prepare[]; restore: () => void } {
  const sim = new SimCluster({
    shape: { layers: 4, experts: 8, bytes, budgetBytes: 2400 },
    spec: {
      rebalancing: { ...fast.rebalancing, budget: { maxTransferBytesPerSecond: limit } },
    },
  });
  const prepares: Prepare[] = [];
  const original = Session.prototype.prepare;
  Session.prototype.prepare = function (this: Session, plan, deadline, rate, onEvent) {
    prepares.push({ epoch: plan.epoch, boot: this.description?.bootId ?? "", forMs: deadline - sim.clock.now(), rate });
    return original.call(this, plan, deadline, rate, onEvent);
  };
  return {
    sim,
    prepares,
    restore: () => {
      Session.prototype.prepare = original;
    },
  };
}

test("a plan for balance is limited, the first one is not; its deadline leaves time for the limit backed off all the way", async () => {
  const { sim, prepares, restore } = watched();
  try {
    sim.demand = skewed;
    sim.startOperator();
    assert.ok(await sim.clock.run(30_000, () => sim.converged()));
    assert.ok(prepares.length > 0 && prepares.every(({ rate }) => rate === 0));
    assert.ok(await sim.clock.run(60_000, () => (sim.plan()?.epoch ?? 0) > 1 && sim.converged()));
    const balance = prepares.filter(({ epoch }) => epoch === 2);
    assert.ok(balance.length > 0 && balance.every(({ rate }) => rate === limit));
    // Somebody receives at least one unit.
    const unitMs = (bytes / (limit * leastShare)) * 1000;
    assert.ok(Math.max(...balance.map(({ forMs }) => forMs)) >= defaultLimits.prepareMs + unitMs);
  } finally {
    restore();
  }
});

test("repair after a loss is not limited, nor is a rank that comes back with empty memory in the middle of a plan", async () => {
  const { sim, prepares, restore } = watched();
  try {
    sim.demand = skewed;
    sim.startOperator();
    assert.ok(await sim.clock.run(30_000, () => sim.converged()));
    for (let rank = 0; rank < 3; rank++) sim.troubles.slow.set(rank, 200);
    assert.ok(await sim.clock.run(60_000, () => prepares.some(({ rate }) => rate === limit)));
    const worker = sim.worker(1);
    worker.crash(500);
    assert.ok(await sim.clock.run(60_000, () => prepares.some(({ boot }) => boot === worker.bootId && boot.endsWith("boot1"))));
    assert.ok(prepares.filter(({ boot }) => boot.endsWith("boot1")).every(({ rate }) => rate === 0));
    sim.troubles.slow.clear();
    assert.ok(await sim.clock.run(60_000, () => sim.converged()));
    const epoch = sim.plan()?.epoch ?? 0;
    worker.crash(undefined);
    sim.pods.delete(worker.podUid);
    sim.refresh();
    assert.ok(await sim.clock.run(60_000, () => (sim.plan()?.epoch ?? 0) > epoch));
    assert.ok(prepares.filter((prepare) => prepare.epoch === epoch + 1).every(({ rate }) => rate === 0));
    assert.deepEqual(sim.faults(), []);
  } finally {
    restore();
  }
});
