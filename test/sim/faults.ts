// Seeded fault search: a cluster under traffic, random faults between any two steps of plans, then peace; at the end the
// cluster must have converged, every source must get its tokens, and the oracle must have seen nothing. Run over many seeds by
// search.ts.
import { AppError } from "../../crds/common.ts";
import { seeded } from "../../operator/planner/random.ts";
import { SimCluster } from "./cluster.ts";
import { callMs } from "./kube.ts";
import type { SimWorker } from "./worker.ts";

export interface FaultRun {
  readonly seed: number;
  readonly faults: readonly string[];
  readonly log: readonly string[];
  readonly epochs: number;
  readonly steps: { readonly done: number; readonly failed: number };
}

export interface FaultOptions {
  /** Names of the faults to strike with; all but those on demand when not given. */
  readonly only?: readonly string[];
  /** Names of faults on demand to strike with as well. */
  readonly also?: readonly string[];
  /**
   * When true, one rank dies for good in the end, and nothing takes its place: its experts must be repaired, whatever fails on the
   * way.
   */
  readonly noSpare?: boolean;
  /** spec.experts.minExpertReplicas; there is memory for them on all ranks together, and in the end every expert has them. */
  readonly minExpertReplicas?: number;
  /** When true, ranks have memory for half of the experts, and serve all. */
  readonly oversubscribed?: boolean;
}

const shape = { layers: 4, experts: 6, bytes: 100, budgetBytes: 1500 };
/** The budget of a rank where experts have a second expert replica: enough for all of them, and for two expert replicas more on each rank. */
const budgetOfExpertReplicas = 1900;
/** Of eight experts each, on three ranks. */
const budgetOversubscribed = 400;
const budgetOf = ({ minExpertReplicas = 1, oversubscribed = false }: FaultOptions): number =>
  oversubscribed ? budgetOversubscribed : minExpertReplicas > 1 ? budgetOfExpertReplicas : shape.budgetBytes;
const unrestMs = 60_000;
const peaceMs = 240_000;
const settleMs = 5_000;
/** Half of the faults strike between two steps of a plan, right after the one of some messages that begins then. */
const atStepShare = 0.5;
const stepsAhead = 24;
const stepWaitMs = 6_000;
const ranks = 3;
/** Milliseconds between two looks of what stands for the reconciler, while the deployment is resized. */
const reconcileMs = 500;
const trigger = { window: "3s", minTokens: 500 };

export async function faultRun(seed: number, options: FaultOptions = {}): Promise<FaultRun> {
  const crashes: string[] = [];
  const crash = (caught: unknown) => void crashes.push(`a process would have crashed: ${AppError.from(caught).stack}`);
  process.on("unhandledRejection", crash);
  try {
    const run = await runWithFaults(seed, options);
    return { ...run, faults: [...run.faults, ...crashes] };
  } finally {
    process.off("unhandledRejection", crash);
  }
}

async function runWithFaults(seed: number, options: FaultOptions): Promise<FaultRun> {
  const { only, also = [], noSpare = false, minExpertReplicas = 1, oversubscribed = false } = options;
  const chosen = faults.filter(({ name, onDemand }) => (only ? only.includes(name) : !onDemand || also.includes(name)));
  const random = seeded(seed * 7919);
  const sim = new SimCluster({
    ...{ seed, ranks },
    shape: { ...shape, oversubscribed, budgetBytes: budgetOf(options) },
    spec: {
      rebalancing: { trigger, interval: "3s" },
      experts: { minExpertReplicas, oversubscription: oversubscribed ? "Allow" : "Never" },
    },
  });
  let topic = 0;
  sim.demand = (layer) =>
    Array.from({ length: shape.experts }, (_, e) => 600 * 0.5 ** ((e * (1 + (topic % 2)) + layer + topic) % shape.experts) + 10);
  // Every other seed, ranks say how fast they compute, unequally and with noise.
  if (seed % 2 === 0) sim.load.rates = { speed: (rank) => (rank === seed % ranks ? 0.6 : 1), noise: 0.2 };
  sim.startOperator();
  await sim.clock.run(5_000);
  sim.troubles.duplicating = true;
  const log: string[] = [];
  const end = sim.clock.now() + unrestMs;
  while (sim.clock.now() < end) {
    await sim.clock.run(200 + random.below(4_000));
    if (random.next() < atStepShare) await nextStep(sim, random);
    const fault = chosen[random.below(chosen.length)] as Fault;
    if (sim.pods.size === 0) continue; // all are being replaced
    log.push(`${sim.clock.now()}: ${fault.name}`);
    fault.strike(sim, random, () => {
      topic++;
    });
    sim.refresh();
  }
  await sim.clock.run(15_000); // faults that end by themselves have ended
  calm(sim);
  if (noSpare) loseForGood(sim, random);
  const copied = (): boolean => sim.plan()?.layers.every(({ hosts }) => hosts.every((row) => row.length >= minExpertReplicas)) === true;
  const converged = await sim.clock.run(peaceMs, () => sim.converged() && copied());
  const quiet = converged ? await tokens(sim) : [];
  const found = [...sim.faults(), ...quiet];
  if (!converged) found.push(`did not converge: ${sim.loop?.view()?.placementBalanced.message}; ${sim.loop?.view()?.placement?.phase}`);
  return { seed, faults: found, log, epochs: sim.epochsWritten.length, steps: sim.oracle.steps };
}

/** Waits until a message of the protocol has arrived, if a plan is under way or begins soon. */
async function nextStep(sim: SimCluster, random: Random): Promise<void> {
  const at = sim.protocolMessages + 1 + random.below(stepsAhead);
  await sim.clock.run(stepWaitMs, () => sim.protocolMessages >= at);
}

/** Checks that in peace every source makes step after step, and none of them fails. */
async function tokens(sim: SimCluster): Promise<string[]> {
  await sim.clock.run(settleMs); // steps begun before may still wait
  const before = { ...sim.oracle.steps };
  await sim.clock.run(settleMs);
  const { done, failed, lastFailure } = sim.oracle.steps;
  const found = failed > before.failed ? [`a step failed in peace: ${lastFailure}`] : [];
  const least = [...sim.pods.values()].filter(({ alive }) => alive).length;
  return done - before.done >= least ? found : [...found, `only ${done - before.done} steps of ${least} sources ended in ${settleMs} ms`];
}

type Random = ReturnType<typeof seeded>;
interface Fault {
  readonly name: string;
  /** Strikes only where it is named: it leaves little room for others. */
  readonly onDemand?: boolean;
  readonly strike: (sim: SimCluster, random: Random, newTopic: () => void) => void;
}

function anyWorker(sim: SimCluster, random: Random): SimWorker {
  const all = [...sim.pods.values()];
  return all[random.below(all.length)] as SimWorker;
}

const faults: readonly Fault[] = [
  { name: "topic", strike: (_sim, _random, newTopic) => newTopic() },
  { name: "topic", strike: (_sim, _random, newTopic) => newTopic() },
  {
    name: "crash",
    strike: (sim, random) => {
      const worker = anyWorker(sim, random);
      if (worker.alive) worker.crash(300 + random.below(9_000));
    },
  },
  {
    name: "replace",
    strike: (sim, random) => {
      const worker = anyWorker(sim, random);
      worker.crash(undefined);
      sim.pods.delete(worker.podUid);
      sim.clock.after(500 + random.below(8_000), () => {
        if (worker.rank < sim.kube.desired && !hasPod(sim, worker.rank)) sim.addPod(worker.rank);
        sim.refresh();
      });
    },
  },
  {
    name: "resize",
    onDemand: true,
    strike: (sim, random) => {
      if (sim.kube.desired < ranks) return;
      sim.scale(ranks - 1);
      const stop = sim.clock.every(reconcileMs, () => reconcile(sim));
      sim.clock.after(3_000 + random.below(30_000), () => {
        sim.scale(ranks);
        reconcile(sim);
        stop();
      });
    },
  },
  {
    name: "stall",
    strike: (sim, random) => {
      const worker = anyWorker(sim, random);
      worker.stalled = true;
      sim.clock.after(500 + random.below(9_000), () => {
        worker.stalled = false;
      });
    },
  },
  {
    name: "cut",
    strike: (sim, random) => {
      const a = random.below(ranks + 1) - 1;
      const b = random.below(ranks);
      const pair = a < 0 ? `-2:${b}` : `${Math.min(a, b)}:${Math.max(a, b)}`;
      sim.troubles.cuts.add(pair);
      sim.clock.after(500 + random.below(9_000), () => sim.troubles.cuts.delete(pair));
    },
  },
  {
    name: "corrupt",
    strike: (sim, random) => {
      sim.troubles.corruptNext += 1 + random.below(6);
    },
  },
  {
    name: "rot",
    strike: (sim, random) => {
      const rank = random.below(ranks);
      sim.troubles.rotten.add(rank);
      sim.clock.after(1_000 + random.below(20_000), () => sim.troubles.rotten.delete(rank));
    },
  },
  {
    name: "hang",
    strike: (sim, random) => {
      const rank = random.below(ranks);
      sim.troubles.hanging.add(rank);
      sim.clock.after(1_000 + random.below(40_000), () => sim.troubles.hanging.delete(rank));
    },
  },
  {
    name: "engine",
    strike: (sim, random) => anyWorker(sim, random).process?.engine.end(),
  },
  {
    name: "memory",
    strike: (sim, random) => {
      const worker = anyWorker(sim, random);
      const plan = worker.state.snapshot();
      if (plan) sim.clock.after(500 + random.below(9_000), worker.fillUp(plan));
    },
  },
  {
    name: "operator",
    strike: (sim, random) => {
      if (!sim.loop) return;
      sim.stopOperator();
      sim.clock.after(100 + random.below(6_000), () => {
        if (!sim.loop) {
          sim.resumed = true;
          sim.startOperator();
        }
      });
    },
  },
  {
    // Its lease is another's, and it does not know yet.
    name: "two operators",
    strike: (sim, random) => {
      if (!sim.loop) return;
      sim.clock.after(200 + random.below(4_000), sim.supersedeOperator());
      sim.resumed = true;
    },
  },
  {
    name: "store",
    strike: (sim, random) => {
      const ms = 200 + random.below(5_000);
      // It does not answer, or takes its time with what it is told to keep.
      if (ms % 2 === 0) sim.kube.storeDown = true;
      else sim.kube.writeMs = ms;
      sim.clock.after(ms, () => {
        sim.kube.storeDown = false;
        sim.kube.writeMs = callMs;
      });
    },
  },
  {
    name: "slow",
    strike: (sim, random) => {
      const rank = random.below(ranks);
      sim.troubles.slow.set(rank, random.next() < 0.3 ? 5_000 : 50);
      sim.clock.after(2_000 + random.below(90_000), () => sim.troubles.slow.delete(rank));
    },
  },
  {
    name: "crawl",
    onDemand: true,
    strike: (sim, random, newTopic) => {
      newTopic();
      if (sim.troubles.slow.size > 0) return;
      for (let rank = 0; rank < ranks; rank++) sim.troubles.slow.set(rank, 5_000);
      sim.clock.after(66_000 + random.below(4_000), () => sim.troubles.slow.clear());
    },
  },
  {
    name: "nats",
    strike: (sim, random) => {
      sim.nats.status.connected = false;
      sim.clock.after(1_000 + random.below(5_000), () => {
        sim.nats.status.connected = true;
      });
    },
  },
];

const hasPod = (sim: SimCluster, rank: number): boolean => [...sim.pods.values()].some((worker) => worker.rank === rank);

/** Plays the reconciler's part in a scale: pods too many leave, and go when they are empty; those that are missing come. */
function reconcile(sim: SimCluster): void {
  const { desired } = sim.kube;
  const drained = new Set(sim.loop?.view()?.drains.flatMap(({ phase, podUid }) => (phase === "Drained" ? [podUid] : [])));
  for (const worker of [...sim.pods.values()]) {
    if (worker.rank < desired || !drained.has(worker.podUid)) continue;
    worker.crash(undefined);
    sim.pods.delete(worker.podUid);
  }
  sim.leaving = [...sim.pods.values()].flatMap(({ rank, podUid }) => (rank < desired ? [] : [{ rank, podUid, reason: "Shrink" as const }]));
  if (desired === ranks && !hasPod(sim, ranks - 1)) sim.addPod(ranks - 1);
  sim.refresh();
}

function calm(sim: SimCluster): void {
  sim.troubles.calm();
  sim.scale(ranks);
  sim.leaving = [];
  sim.kube.storeDown = false;
  sim.kube.writeMs = callMs;
  sim.nats.status.connected = true;
  for (const worker of sim.pods.values()) {
    worker.stalled = false;
    if (!worker.alive) worker.crash(10);
  }
  for (let rank = 0; rank < ranks; rank++) if (!hasPod(sim, rank)) sim.addPod(rank);
  if (!sim.loop) sim.startOperator();
  sim.refresh();
}

/**
 * The first attempt at the repair fails: at its write, or since the bytes of its transfers are bad for a while. A plan for balance
 * would make good what repair leaves undone.
 */
function loseForGood(sim: SimCluster, random: Random): void {
  sim.respec({ rebalancing: { mode: "Off", trigger }, experts: { oversubscription: sim.shape.oversubscribed ? "Allow" : "Never" } });
  anyWorker(sim, random).crash(undefined);
  if (random.next() < 0.5) sim.kube.failWrites = 1;
  else {
    sim.troubles.corruptNext = Number.POSITIVE_INFINITY;
    sim.clock.after(15_000, () => {
      sim.troubles.corruptNext = 0;
    });
  }
}
