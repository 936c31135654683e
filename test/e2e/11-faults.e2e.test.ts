// Every fault in every step of a rebalance that can be hit from outside: before the first commit, and while some layers are
// committed and others are not. Each ends in commit or in the parent, in time; no request fails, no text changes, and every
// expert is where the plan says. Release lasts for milliseconds per layer, and Commit of one layer too: there the faults
// strike at the call itself in test/sim/fault-table.test.ts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { ExpertIndex } from "../../runtime/weights/store.ts";
import { cutLink, healLink } from "../cluster/cluster.ts";
import {
  gatewayAddress,
  kubectlOf,
  provideNamespace,
  systemNamespace,
  type Target,
  waitReady,
  workerPods,
} from "../kit/deployment/product.ts";
import { processOf } from "../kit/kube/pod-process.ts";
import { type Sample, scrape, sum } from "../kit/kube/scrape.ts";
import { modelsFolder } from "../kit/models/local-models.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { holders, rankOf } from "./held.ts";
import { copyModel, flipBits, limitMemory, replaceFolder } from "./node-faults.ts";
import { type PlantedLoad, plantLoad } from "./planted-load.ts";
import { startTraffic, type Traffic } from "./steady-traffic.ts";
import { hasEnded, isMoving, type Moves, outcome, PlacementWatch, type Seen } from "./watch-placement.ts";
import { clusterName, type Deployed, openWorld, remove, smolMoe } from "./world.ts";

const name = "faults";
const layers = 30;
const experts = 8;
/** Not enough for replicas of all hot experts, so that the planner moves them. */
const memoryPerRank = "160Mi";
/** A plan of a third of the layers takes long enough to be hit, and not longer. */
const layersTurned = 10;
/** Turns of the load that a placement may suit already. */
const turnsMax = 8;
const limit = "2Mi";
const planStartsWithinMs = 20_000;
const planEndsWithinMs = 300_000;
const healthyWithinMs = 180_000;
const cutMs = 12_000;
/** Plans that may be past what is to be hit when they are seen. */
const attemptsMax = 8;
/** Two experts more than what the container holds. */
const spareBytes = 3 * 1024 * 1024;

const steps = ["prepare", "commit"] as const;
type Step = (typeof steps)[number];

interface Rank {
  readonly rank: number;
  readonly pod: string;
  readonly node: string;
  readonly pid: number;
}

/** The plan under way and who is who in it. */
interface Scene {
  readonly source: Rank;
  readonly target: Rank;
  readonly moves: Moves;
  readonly leader: string;
}

let target: Target;
let moe: Deployed;
let watch: PlacementWatch;
let planted: PlantedLoad;
let traffic: Traffic;
/** One node has a copy of the model of its own. */
let ownCopy: { readonly node: string; readonly folder: string; readonly index: ExpertIndex };

const system = () => kubectlOf(target, systemNamespace);

/** Takes a fault back, now or when the plan has ended, and says whether it hit anything of that plan. */
type Heal = (planEnded: Promise<unknown>) => Promise<boolean>;
const nothing: Heal = async () => true;

/** The faults in this order: a rank whose node is cut off comes back elsewhere, and the node with the copy of its own has none then. */
const faults: Readonly<Record<string, (scene: Scene) => Promise<Heal>>> = {
  "source killed": async ({ source }) => kill(source),
  "target killed": async ({ target: victim }) => kill(victim),
  "operator killed": async ({ leader }) => {
    await system().run(["delete", "pod", leader, "--grace-period=0", "--force", "--wait=false"]);
    return nothing;
  },
  "model file on the source's node corrupt": async ({ source, moves }) => {
    const cells = moves.filter((move) => move.sources.includes(source.rank));
    const before = await corruptFetches();
    flipBits(ownCopy.folder, ownCopy.index, cells);
    return async (planEnded) => {
      await planEnded.catch(() => {});
      flipBits(ownCopy.folder, ownCopy.index, cells);
      return (await corruptFetches()) > before;
    };
  },
  "link of the target's node cut": async ({ target: victim }) => {
    const [pod] = (await workerPods(moe.kubectl, name)).filter(({ metadata }) => metadata.name === victim.pod);
    await cutLink(clusterName, victim.node);
    return async () => {
      const answered = await fetch(`http://${pod?.status.podIP}:9465/healthz`, { signal: AbortSignal.timeout(2_000) }).catch(
        () => undefined,
      );
      assert.equal(answered, undefined, "the node can be reached");
      await sleep(cutMs);
      await healLink(clusterName, victim.node);
      return true;
    };
  },
  "memory of the target full": async ({ target: victim }) => {
    const met = limitMemory(victim.pid, spareBytes);
    return async (planEnded) => {
      await planEnded;
      assert.ok(met(), "the container had all the memory it wanted");
      return true;
    };
  },
};

/** Experts that were fetched with wrong bytes, by what the workers count. */
async function corruptFetches(): Promise<number> {
  const pods = await workerPods(moe.kubectl, name);
  const counts = pods.map(async ({ metadata }) =>
    sum(await scrape(moe.kubectl, moe.namespace, metadata.name), "enodia_shard_fetches_total", { result: "corrupt" }),
  );
  return (await Promise.all(counts)).reduce((a, b) => a + b, 0);
}

function kill({ pid }: Rank): Heal {
  process.kill(pid, "SIGKILL");
  return nothing;
}

async function ranksNow(): Promise<readonly Rank[]> {
  const pods = await workerPods(moe.kubectl, name);
  return Promise.all(
    pods.map(async ({ metadata, spec }) => ({
      rank: rankOf(metadata.name),
      pod: metadata.name,
      node: spec.nodeName as string,
      pid: await processOf(metadata.uid ?? ""),
    })),
  );
}

async function leaderPod(): Promise<string> {
  for (const pod of await system().list("pods", "app.kubernetes.io/component=operator")) {
    const samples = await scrape(system(), systemNamespace, pod.metadata.name).catch((): Sample[] => []);
    if (sum(samples, "enodia_operator_leader") === 1) return pod.metadata.name;
  }
  throw new Error("no operator leads");
}

/** Turns the planted load against the placement until the planner begins to follow it. */
async function startPlan(): Promise<{ readonly parent: number; readonly first: Seen }> {
  await patchRebalancing(moe, name, { mode: "Off" });
  await until("the plan before to end", () => (watch.latest && hasEnded(watch.latest) ? true : undefined), { timeoutMs: planEndsWithinMs });
  const parent = watch.epoch;
  await patchRebalancing(moe, name, { mode: "Auto" });
  // The placement may suit it, if replicas do or the last plan was rolled back.
  for (let tried = 1; ; tried++) {
    planted.turnAgainst(watch.placed);
    try {
      return { parent, first: await watch.next("a plan to begin", (seen) => seen.epoch > parent, planStartsWithinMs) };
    } catch (error) {
      if (tried === turnsMax) throw error;
    }
  }
}

/** The ranks that give most and take most; the fault may ask for a node. */
function sceneOf(moves: Moves, ranks: readonly Rank[], leader: string, fault: string, gatewayNode: string): Scene {
  const most = (count: (rank: Rank) => number, among: readonly Rank[]): Rank => {
    const [first] = among.toSorted((a, b) => count(b) - count(a));
    assert.ok(first && count(first) > 0, `no rank for "${fault}" in ${moves.length} moves`);
    return first;
  };
  const gives = ({ rank }: Rank): number => moves.filter((move) => move.sources.includes(rank)).length;
  const takes = ({ rank }: Rank): number => moves.filter((move) => move.rank === rank).length;
  const corrupt = fault.startsWith("model file");
  const cut = fault.startsWith("link");
  const source = most(gives, corrupt ? ranks.filter(({ node }) => node === ownCopy.node) : ranks);
  // A gateway that is cut off loses its connections, which is documented.
  const target = most(
    takes,
    ranks.filter((rank) => rank !== source && !(cut && rank.node === gatewayNode)),
  );
  return { source, target, moves, leader };
}

async function assertIntact(struckAt: number): Promise<void> {
  await waitReady(moe.kubectl, name, healthyWithinMs);
  await until(
    "every rank to serve the plan and to hold its experts",
    async () => {
      const plan = watch.plans.get(watch.epoch);
      assert.ok(plan && watch.latest && hasEnded(watch.latest));
      assert.ok(
        plan.layers.length === layers && plan.layers.every(({ hosts }) => hosts.length === experts && hosts.every((row) => row.length > 0)),
      );
      const all = await holders(moe, plan);
      assert.equal(all.length, 3);
      for (const { rank, planned, held, epoch } of all)
        assert.ok(held >= planned && epoch >= plan.epoch, `rank ${rank} holds ${held} of ${planned} experts at epoch ${epoch}`);
      return true;
    },
    { timeoutMs: healthyWithinMs, everyMs: 1_000 },
  );
  watch.seen.forEach(({ epoch }, i) => {
    assert.ok(epoch >= (watch.seen[i - 1]?.epoch ?? 0), `epoch ${epoch} came after ${watch.seen[i - 1]?.epoch}`);
  });
  const answered = traffic.counts.requests;
  await until("another answer", () => (traffic.counts.requests > answered + 1 ? true : undefined), { timeoutMs: 60_000 });
  traffic.assertWhole();
  process.stderr.write(`#   whole ${Date.now() - struckAt} ms after the fault, ${traffic.counts.requests} requests so far\n`);
}

/** Layers committed of the plan under way; the status says nothing of it yet when its spec was just written. */
const layersCommitted = (seen: Seen): number => (isMoving(seen) ? (seen.status.layersCommitted ?? 0) : 0);

/** A plan in the step that is to be hit: before its first commit, or with some layers committed and others not. */
async function planIn(step: Step): Promise<{ readonly parent: number; readonly first: Seen }> {
  for (let attempt = 1; ; attempt++) {
    const plan = await startPlan();
    if (step === "commit")
      await watch.next("some layers to be committed", (seen) => isMoving(seen) && (seen.status.layersCommitted ?? 0) > 0, planEndsWithinMs);
    const { latest } = watch;
    if (latest && (step === "prepare" ? layersCommitted(latest) === 0 : isMoving(latest))) return plan;
    // A layer that has nothing to fetch may be committed before anybody looks.
    assert.ok(attempt < attemptsMax, `${attempt} plans were past the step before they could be hit`);
  }
}

/** Strikes one plan; false when the fault met nothing of it. */
async function strikeOnce(fault: string, step: Step): Promise<boolean> {
  const [ranks, leader, gateways] = await Promise.all([
    ranksNow(),
    leaderPod(),
    moe.kubectl.list("pods", `enodia.dev/deployment=${name},enodia.dev/component=gateway`),
  ]);
  const { parent, first } = await planIn(step);
  const scene = sceneOf(watch.movesSince(parent), ranks, leader, fault, gateways[0]?.spec.nodeName);
  const [struckAt, from, at] = [Date.now(), watch.seen.length, watch.latest ?? first];
  const heal = await faults[fault]?.(scene);
  const ends = watch.next("the plan to end", (seen) => hasEnded(seen) && outcome(seen) !== outcome(at), planEndsWithinMs, from);
  const off = patchRebalancing(moe, name, { mode: "Off" }); // nothing new for balance
  const [ended, , hit] = await Promise.all([ends, off, heal?.(ends)]);
  const own = watch.seen.filter((seen) => seen.epoch >= first.epoch && seen.at <= ended.at);
  const deadline = own.findLast((seen) => isMoving(seen) && seen.status.deadline !== undefined)?.status.deadline;
  process.stderr.write(
    `# ${fault} in ${step} (${layersCommitted(at)} layers committed, ${scene.moves.length} moves, source ${scene.source.rank}, target ${scene.target.rank}): ${ended.status.phase} after ${ended.at - struckAt} ms: ${ended.status.reason}\n`,
  );
  assert.ok(deadline !== undefined, "the plan said no deadline");
  assert.ok(ended.at <= Date.parse(deadline), `ended ${new Date(ended.at).toISOString()}, deadline ${deadline}`);
  await assertIntact(struckAt);
  return hit === true;
}

async function strike(fault: string, step: Step): Promise<void> {
  // Once some layers are committed, the source may have given all that it had to give.
  for (let attempt = 1; !(await strikeOnce(fault, step)); attempt++)
    assert.ok(attempt < attemptsMax, `${attempt} plans had nothing left for "${fault}" in ${step}`);
}

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  const shared = `${modelsFolder()}-faults`;
  const folder = join(`${modelsFolder()}-faults-copy`, "smol-moe");
  const index = JSON.parse(readFileSync(join(modelsFolder(), "smol-moe/expert-index.json"), "utf8")) as ExpertIndex;
  const file = index.codecs.q4_0?.file ?? "";
  // The shared folder is one of its own as well: a mount over it concerns no other test.
  copyModel(join(modelsFolder(), "smol-moe"), join(shared, "smol-moe"), "config.json");
  copyModel(join(modelsFolder(), "smol-moe"), folder, file);
  const node = `${clusterName}-3`;
  await replaceFolder(node, join(shared, "smol-moe"), folder);
  ownCopy = { node, folder, index };
  const kubectl = await provideNamespace(target, "e2e-faults", shared);
  const rebalancing = {
    mode: "Auto",
    policy: "incremental",
    interval: "1s",
    trigger: { imbalancePercent: 150, window: "2s", minTokens: 1000 },
    budget: { maxMoves: 1000, maxTransferBytesPerSecond: limit },
  };
  await kubectl.apply(smolMoe(name, { rebalancing, experts: { memoryPerRank } }));
  moe = { target, kubectl, name, namespace: "e2e-faults", url: async () => (await gatewayAddress(target, kubectl, name)).url };
  await waitReady(kubectl, name);
  watch = new PlacementWatch(moe);
  planted = await plantLoad(moe, { layers, experts, layersTurned });
  await watch.next("a first plan", hasEnded, planEndsWithinMs, 0);
  planted.turnAgainst(watch.placed);
  const begun = await watch.next("the planted load to be followed", isMoving, planStartsWithinMs);
  await watch.next("the first rebalance to end", (seen) => seen.epoch >= begun.epoch && hasEnded(seen), planEndsWithinMs);
  await patchRebalancing(moe, name, { mode: "Off" });
  const url = await moe.url();
  traffic = await startTraffic({ url: () => url, model: name, clients: 2, everyMs: 2_000, tokens: 32 });
});
after(async () => {
  await traffic?.stop();
  await planted?.stop();
  await watch?.close();
  if (moe) await remove(moe);
});

for (const fault of Object.keys(faults)) {
  for (const step of steps) test(`${fault} in step ${step}`, () => strike(fault, step));
}
