// One deployment of many ranks, end to end: what its operator takes until it serves, to keep its books while load comes in, to follow a
// changed load, to shrink, and to make good the loss of a node. Bytes and connections are counted where the ranks' sockets are.
import { labels } from "../../crds/common.ts";
import { parseExpertPlacement } from "../../crds/expert-placement.ts";
import { resources } from "../../operator/kube/kube.ts";
import type { OverQuota } from "../../operator/rebalance/links/quota.ts";
import type { Sample } from "../../operator/views/prometheus-text.ts";
import { until } from "../kit/processes/process.ts";
import { totalOf } from "./audit.ts";
import { listed, phase, round, wait } from "./deployments.ts";
import { type Fleet, nameOf, namespace, startFleet, type Weight } from "./fleet.ts";
import type { ScaleRank } from "./ranks.ts";
import type { Tally, Totals } from "./tally.ts";

export const worldFleet = "world";
const minuteMs = 60_000;
const progressMs = 10_000;
/** Pods of a node: ranks of one machine, and room for a gateway. */
const podsPerNode = 9;
const ranksPerNode = 8;
const spareNodes = 2;
/** Memory of a rank over its part of all experts: six of 16 ranks have room for all, when two have left and a node of 8 is lost. */
const memoryOverShare = 3;
/** In every other layer one expert becomes so many times as hot as the others. */
const hot = 4;
/** Experts that a token is routed to. */
const chosen = 8;
/** Ranks that send a token's experts at the same time. */
const ranksAtOnce = 16;
/** The longest a rank keeps a connection that it does not use. */
const idleMs = 60_000;

interface WorldRun {
  readonly ranks: number;
  readonly layers: number;
  readonly experts: number;
  /** Ranks that leave at the end. */
  readonly shrinkBy: number;
  /** Of load, as the spec has it. */
  readonly windowSeconds: number;
  readonly steadySeconds: number;
  /** Ends with the repair of what was lost, and waits neither for idle connections to be closed nor for new ranks. */
  readonly short: boolean;
  /** See FleetOptions. */
  readonly memoryMiB?: number | undefined;
  readonly profileFolder?: string | undefined;
  readonly log: (line: string) => void;
}

/** What a part of the run took. */
interface Took {
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Of the process of all ranks. */
  readonly ranksCpuSeconds: number;
  readonly writes: number;
  /** MiB that the operator sent to ranks, and experts that ranks had from each other and from the store. */
  readonly sentMiB: number;
  readonly fromPeers: number;
  readonly fromStore: number;
  readonly opened: number;
  readonly closed: number;
  /** Seconds from the first rank to the last, of the slowest membership and plan. */
  readonly memberships: number;
  readonly membershipSeconds: number;
  readonly planSeconds: number;
  /** MiB of memory of the operator afterwards. */
  readonly rssMiB: number;
}

export interface WorldRow {
  readonly ranks: number;
  readonly serve: Took;
  readonly steady: Took & {
    readonly messagesPerSecond: number;
    readonly kibPerSecond: number;
    readonly taken: number;
    readonly refused: number;
  };
  readonly frames: { readonly sent: number; readonly opened: number; readonly closedWhenIdle: number };
  /** `reason`: the plan's own figures. */
  readonly rebalance: Took & { readonly reason: string };
  /** `repairedSeconds`: until every expert had a live host again. */
  readonly loss: Took & { readonly ranks: number; readonly experts: number; readonly repairedSeconds: number };
  /** `unhosted`: the most experts at once that no live rank had. */
  readonly shrink: Took & { readonly unhosted: number };
  readonly planObjectKiB: number;
  readonly peakMiB: number;
}

export async function runWorld(run: WorldRun): Promise<WorldRow> {
  const { ranks, layers, experts, log, windowSeconds } = run;
  const nodes = Math.ceil((ranks + 1) / podsPerNode);
  const spec = { rebalancing: { trigger: { window: `${windowSeconds}s` }, interval: `${windowSeconds}s` } };
  const rankExperts = Math.ceil((memoryOverShare * layers * experts) / ranks);
  const fleet = await startFleet({
    ...{ name: worldFleet, deployments: 1, ranks, layers, experts, log, memoryMiB: run.memoryMiB, profileFolder: run.profileFolder },
    shape: { nodes, podsPerNode, rankExperts, spec },
  });
  try {
    fleet.setLoad(even);
    const timeoutMs = 5 * minuteMs + ranks * 2_000;
    const serves = (wanted: number) => () => (fleet.serving(wanted) === 1 ? true : undefined);
    const progress = setInterval(() => log(`${fleet.tally.ranks.size} ranks run; ${fleet.problems(0)}`), progressMs);
    const serve = await part("serves", fleet, run, async () => {
      await fleet.create(0, 1);
      await until("the world to serve", serves(ranks), { timeoutMs, everyMs: 100 });
    }).finally(() => clearInterval(progress));
    await fleet.nodes.add(spareNodes);
    await quiet(fleet, run);
    const steady = await steadyLoad(fleet, run);
    const frames = await framesOnce(fleet, run);
    const rebalance = await followLoad(fleet, run, timeoutMs);
    await quiet(fleet, run);
    const shrink = await shrinkBy(fleet, run, timeoutMs);
    await quiet(fleet, run);
    const loss = await loseNode(fleet, run, timeoutMs);
    const object = await fleet.kube.get(resources.expertPlacements, { namespace, name: nameOf(0) });
    const planObjectKiB = round(JSON.stringify(object?.spec).length / 1024, 0);
    return { ranks, serve, steady, frames, rebalance, loss, shrink, planObjectKiB, peakMiB: Math.round(fleet.operator.memory().peak) };
  } finally {
    await fleet.stop();
  }
}

/** All experts alike but for a twentieth, which no plan is worth. */
const even: Weight = (layer, expert) => 1 + ((7 * expert + layer) % 3) / 40;
const skewed: Weight = (layer, expert) => even(layer, expert) * (layer % 2 === 0 && expert === hotExpert(layer) ? hot : 1);
const hotExpert = (layer: number): number => (5 * layer) % 8;

async function part(what: string, fleet: Fleet, { log }: WorldRun, work: () => Promise<unknown>): Promise<Took> {
  const { tally, operator } = fleet;
  const before = tally.totals();
  tally.spreads();
  const took = await phase(fleet, work);
  const [{ memberships, plans }, after] = [tally.spreads(), tally.totals()];
  const more = (of: keyof Totals) => after[of] - before[of];
  const result = {
    ...{
      seconds: round(took.seconds, 1),
      cpuSeconds: round(took.cpuSeconds, 1),
      ranksCpuSeconds: round(took.othersCpu["simulated pods"] ?? 0, 1),
      writes: totalOf(took.writes),
    },
    sentMiB: round(more("operatorBytes") / 2 ** 20, 1),
    ...{ fromPeers: more("fromPeers"), fromStore: more("fromStore"), opened: more("opened"), closed: more("closed") },
    ...{ memberships: memberships.versions, membershipSeconds: round(memberships.slowest, 2), planSeconds: round(plans.slowest, 2) },
    rssMiB: Math.round(operator.memory().rss),
  };
  log(`${what}: ${JSON.stringify(result)}; ${listed(took.writes)}`);
  return result;
}

async function steadyLoad(fleet: Fleet, run: WorldRun): Promise<WorldRow["steady"]> {
  const [before, counted] = [fleet.tally.totals(), await telemetryOf(fleet)];
  const took = await part("nothing changes", fleet, run, () => wait(run.steadySeconds * 1000));
  const [after, taken] = [fleet.tally.totals(), await telemetryOf(fleet)];
  run.log(`quota: ${taken.delayed} looks at pods that had to wait and ${taken.dropped} answers dropped since the start`);
  return Object.assign(took, {
    messagesPerSecond: round((after.loadMessages - before.loadMessages) / took.seconds, 1),
    kibPerSecond: round((after.loadBytes - before.loadBytes) / 1024 / took.seconds, 0),
    taken: taken.taken - counted.taken,
    refused: taken.refused - counted.refused,
  });
}

async function telemetryOf({ operator }: Fleet): Promise<Record<"taken" | "refused" | OverQuota, number>> {
  const samples = await operator.metrics();
  const over = (result: OverQuota) => sum(samples, "enodia_answers_over_quota_total", { result });
  return {
    ...{ taken: sum(samples, "enodia_telemetry_samples_total"), refused: sum(samples, "enodia_telemetry_dropped_total") },
    ...{ delayed: over("delayed"), dropped: over("dropped") },
  };
}

const sum = (samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}): number =>
  samples
    .filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value))
    .reduce((total, { value }) => total + value, 0);

/**
 * One token of every rank goes through one layer; then connections are left alone until they are closed. Few ranks at once: all of them
 * are one process here, in which thousands of TLS handshakes at a time would take longer than a frame waits.
 */
async function framesOnce({ tally }: Fleet, run: WorldRun): Promise<WorldRow["frames"]> {
  const before = tally.totals();
  const ranks = [...tally.ranks];
  let sent = 0;
  for (let first = 0; first < ranks.length; first += ranksAtOnce) {
    const some = ranks.slice(first, first + ranksAtOnce).map((rank) => frameOf(rank, run));
    for (const one of await Promise.all(some)) sent += one;
  }
  const opened = tally.totals().opened - before.opened;
  run.log(`${sent} frames opened ${opened} connections`);
  if (!run.short) await wait(1.5 * idleMs);
  const after = tally.totals();
  const closedWhenIdle = after.closed - before.closed;
  run.log(`${closedWhenIdle} connections closed when idle, ${after.opened - after.closed} are open`);
  return { sent, opened, closedWhenIdle };
}

/** Has the experts of one token computed where they are; returns the frames that were sent. */
async function frameOf({ identity, plane, engine }: ScaleRank, { layers, experts }: WorldRun): Promise<number> {
  const layer = identity.rank % layers;
  const placement = plane.experts.state.current(layer);
  const wanted = Array.from({ length: chosen }, (_, i) => (31 * identity.rank + 37 * i) % experts);
  const hosts = Map.groupBy(wanted, (expert) => placement?.hosts[expert]?.[0] ?? -1);
  const away = [...hosts].filter(([rank]) => rank !== identity.rank);
  const rows = new Float32Array(engine.describe().hidden);
  const frame = ([rank, held]: readonly [number, readonly number[]]) =>
    engine.connections.rows({
      ...{ layer, epoch: placement?.epoch ?? 0, rank, phase: "decode", rows },
      ...{ pairRows: new Uint32Array(held.length), pairExperts: Uint32Array.from(held) },
    });
  await Promise.all(away.map(frame));
  return away.length;
}

async function followLoad(fleet: Fleet, run: WorldRun, timeoutMs: number): Promise<WorldRow["rebalance"]> {
  const { operator, tally, kube } = fleet;
  const epoch = planOf(tally).least;
  const committed = async () => sum(await operator.metrics(), "enodia_rebalances_total", { result: "committed" });
  const before = await committed();
  fleet.setLoad(skewed);
  const took = await part("follows its load", fleet, run, async () => {
    await until("a plan for the load", () => (planOf(tally).least > epoch ? true : undefined), { timeoutMs, everyMs: 50 });
    await until("the plan to end", async () => ((await committed()) > before ? true : undefined), { timeoutMs, everyMs: 500 });
  });
  const { spec } = parseExpertPlacement(await kube.get(resources.expertPlacements, { namespace, name: nameOf(0) }));
  run.log(spec.reason ?? "");
  return Object.assign(took, { reason: spec.reason ?? "" });
}

async function loseNode(fleet: Fleet, run: WorldRun, timeoutMs: number): Promise<WorldRow["loss"]> {
  const { tally, kube, nodes } = fleet;
  const wanted = run.ranks - run.shrinkBy;
  const { items } = await kube.list(resources.pods, { namespace });
  const workers = items.filter(({ metadata }) => metadata.labels?.[labels.rank] !== undefined);
  const byNode = [...Map.groupBy(workers, ({ spec }) => (spec as { readonly nodeName?: string }).nodeName ?? "")];
  const unlike = (pods: readonly unknown[]): number => Math.abs(pods.length - ranksPerNode);
  const [node = "", lost = []] = byNode.sort(([, a], [, b]) => unlike(a) - unlike(b))[0] ?? [];
  let [experts, repairedSeconds] = [0, 0];
  const took = await part(`loses ${lost.length} ranks with ${node}`, fleet, run, async () => {
    const started = performance.now();
    await nodes.off(node);
    experts = unhosted(tally);
    await until("every expert to have a host", () => (unhosted(tally) === 0 ? true : undefined), { timeoutMs, everyMs: 100 });
    repairedSeconds = round((performance.now() - started) / 1000, 1);
    run.log(`${experts} experts had no host for ${repairedSeconds} s`);
    const whole = () => (tally.ranks.size === wanted && fleet.serving(wanted) === 1 ? true : undefined);
    if (!run.short) await until("new ranks in place of the lost", whole, { timeoutMs, everyMs: 100 });
  });
  return Object.assign(took, { ranks: lost.length, experts, repairedSeconds });
}

async function shrinkBy(fleet: Fleet, run: WorldRun, timeoutMs: number): Promise<WorldRow["shrink"]> {
  const { tally } = fleet;
  const wanted = run.ranks - run.shrinkBy;
  let most = 0;
  const took = await part(`shrinks to ${wanted}`, fleet, run, async () => {
    await fleet.scale(0, wanted);
    const small = () => {
      most = Math.max(most, unhosted(tally));
      return fleet.serving(wanted) === 1 && tally.ranks.size === wanted ? true : undefined;
    };
    await until("the world to be smaller", small, { timeoutMs, everyMs: 200 });
  });
  return Object.assign(took, { unhosted: most });
}

/** (layer, expert) pairs that no rank that runs has in its memory. */
function unhosted({ ranks }: Tally): number {
  const [first] = ranks;
  if (!first) return 0;
  const { layers, experts } = first.engine.describe();
  const held = new Uint8Array(layers * experts);
  for (const { engine } of ranks)
    for (const [layer, row] of engine.hosted().entries()) for (const expert of row) held[layer * experts + expert] = 1;
  return held.reduce((count, one) => count - one, held.length);
}

function planOf({ ranks }: Tally): { readonly least: number; readonly most: number } {
  const epochs = [...ranks].map(({ plane }) => plane.experts.state.epoch).filter((epoch) => epoch > 0);
  return { least: Math.min(...epochs), most: Math.max(...epochs) };
}

/** Waits until no plan was made for a window and an interval, and a bit. */
async function quiet({ tally }: Fleet, { windowSeconds, log }: WorldRun): Promise<void> {
  let [seen, since] = [-1, 0];
  const calm = () => {
    const { least, most } = planOf(tally);
    if (most !== seen || least !== most) [seen, since] = [most, performance.now()];
    return performance.now() - since > 3_000 * windowSeconds ? true : undefined;
  };
  await until("plans to end", calm, { timeoutMs: 10 * minuteMs, everyMs: 200 });
  log(`no plan after epoch ${seen}`);
}
