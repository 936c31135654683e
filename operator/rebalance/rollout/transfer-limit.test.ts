// The rate and the deadline that the operator gives with each Prepare, seen at the links of a simulated cluster.
import assert from "node:assert/strict";
import { test } from "node:test";
import { leastShare } from "../../../runtime/placement/backoff.ts";
import { SimCluster } from "../../../test/sim/cluster.ts";
import { Session } from "../links/session.ts";
import { defaultLimits } from "./protocol-types.ts";

const bytes = 100;
const limit = 50;
const skewed = (layer: number): number[] => Array.from({ length: 8 }, (_, e) => 1000 * 0.55 ** ((e + layer * 3) % 8) + 20);

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
      rebalancing: { trigger: { window: "5s", minTokens: 1000 }, interval: "5s", budget: { maxTransferBytesPerSecond: limit } },
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
