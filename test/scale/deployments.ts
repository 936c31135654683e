// Many deployments of a few ranks each: how long the operator takes until all of them serve, what it asks of the API server for that
// and for a change, and what it costs while nothing changes but the load. Figures of CPU are the kernel's, of requests the API server's.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { until } from "../kit/processes/process.ts";
import { totalOf, writesOf } from "./audit.ts";
import { type Fleet, fleetName, startFleet } from "./fleet.ts";
import { countOf, type Histogram, histogramOf, quantile, since } from "./histogram.ts";
import { operatorUser } from "./operator-process.ts";

const minuteMs = 60_000;
const createEveryMs = 200;
const pauseSecondsMin = 1;

interface DeploymentsRun {
  readonly deployments: number;
  /** So many are made that do not serve yet, and the others as these come to serve. */
  readonly atOnce: number;
  readonly ranks: number;
  readonly layers: number;
  readonly experts: number;
  /** What was begun goes on for a while after the last deployment serves, until the first windows of load have ended. */
  readonly settleSeconds: number;
  readonly steadySeconds: number;
  /** Deployments that get one rank more, one after another. */
  readonly changes: number;
  /** See FleetOptions. */
  readonly profileFolder?: string | undefined;
  readonly memoryMiB?: number;
  readonly log: (line: string) => void;
}

/** A phase as seen from outside: requests by kind, and what they took. */
export interface Phase {
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Of all that is no operator, by program. */
  readonly othersCpu: Readonly<Record<string, number>>;
  readonly writes: ReadonlyMap<string, number>;
  readonly reads: number;
  readonly reconciles: Histogram;
}

interface DeploymentsRow {
  readonly deployments: number;
  readonly ranks: number;
  readonly convergeSeconds: number;
  readonly convergeCpuSeconds: number;
  readonly writesPerDeployment: number;
  readonly readsPerDeployment: number;
  readonly reconcilesPerDeployment: number;
  readonly reconcileP50Ms: number | undefined;
  readonly reconcileP99Ms: number | undefined;
  readonly writesPerChange: number | undefined;
  readonly changeSeconds: number | undefined;
  readonly steadyWritesPerSecond: number;
  readonly steadyStatusWritesPerSecond: number;
  readonly steadyCores: number;
  readonly rssMiB: number;
  readonly peakMiB: number;
}

export async function runDeployments(run: DeploymentsRun): Promise<DeploymentsRow> {
  const { deployments, ranks, log } = run;
  const fleet = await startFleet(Object.assign({ name: fleetName }, run));
  try {
    const all = (wanted: number) => async () => (fleet.serving(wanted) === deployments ? true : undefined);
    const timeoutMs = 5 * minuteMs + deployments * (1_000 + ranks * 250);
    let said = -1;
    const delay = monitorEventLoopDelay({ resolution: 20 });
    delay.enable();
    const progress = setInterval(() => {
      const serving = fleet.serving(ranks);
      const stood = delay.max / 1e9;
      delay.reset();
      // The simulated pods are this process: while it stands still, none of them gives a sign of life.
      const pause = stood > pauseSecondsMin ? `; the simulation stood still for ${stood.toFixed(1)} s` : "";
      if (serving !== said || pause !== "") log(`${serving} of ${deployments} serve${pause}`);
      said = serving;
    }, 5_000);
    const converge = await phase(fleet, async () => {
      await createInTurn(fleet, run, timeoutMs);
      await until("all deployments to serve", all(ranks), { timeoutMs });
    }).finally(() => {
      clearInterval(progress);
      delay.disable();
    });
    log(`all serve after ${converge.seconds.toFixed(1)} s: ${listed(converge.writes)}`);
    log(`CPU seconds meanwhile: ${cpuOf(converge)}`);
    await wait(run.settleSeconds * 1000);
    const steady = await phase(fleet, () => wait(run.steadySeconds * 1000));
    log(`${run.steadySeconds} s in which nothing changes: ${listed(steady.writes)}`);
    log(`CPU seconds meanwhile: ${cpuOf(steady)}`);
    const { rss } = fleet.operator.memory();
    const change = await phase(fleet, async () => {
      for (let index = 0; index < run.changes; index++) {
        await fleet.scale(index, ranks + 1);
        await until(`deployment ${index} to have one rank more`, () => (fleet.serving(ranks + 1) > index ? true : undefined), {
          ...{ timeoutMs: 2 * minuteMs, everyMs: 100 },
        });
      }
    });
    if (run.changes > 0) log(`${run.changes} deployments got one rank more: ${listed(change.writes)}`);
    const perDeployment = (count: number) => round(count / deployments, 1);
    const changed = (value: number) => (run.changes === 0 ? undefined : round(value / run.changes, 1));
    const statusWrites = [...steady.writes].filter(([key]) => key.endsWith("/status")).reduce((sum, [, count]) => sum + count, 0);
    return {
      ...{ deployments, ranks, convergeSeconds: round(converge.seconds, 1), convergeCpuSeconds: round(converge.cpuSeconds, 1) },
      writesPerDeployment: perDeployment(totalOf(converge.writes)),
      readsPerDeployment: perDeployment(converge.reads),
      reconcilesPerDeployment: perDeployment(countOf(converge.reconciles)),
      ...{ reconcileP50Ms: milliseconds(converge.reconciles, 0.5), reconcileP99Ms: milliseconds(converge.reconciles, 0.99) },
      // What the others write meanwhile is not of the change.
      writesPerChange: changed(totalOf(change.writes) - (totalOf(steady.writes) * change.seconds) / steady.seconds),
      changeSeconds: changed(change.seconds),
      steadyWritesPerSecond: round(totalOf(steady.writes) / steady.seconds, 2),
      steadyStatusWritesPerSecond: round(statusWrites / steady.seconds, 2),
      steadyCores: round(steady.cpuSeconds / steady.seconds, 3),
      ...{ rssMiB: Math.round(rss), peakMiB: Math.round(fleet.operator.memory().peak) },
    };
  } finally {
    await fleet.stop();
  }
}

async function createInTurn(fleet: Fleet, { deployments, atOnce, ranks }: DeploymentsRun, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (let made = 0; made < deployments; ) {
    const room = Math.min(deployments - made, atOnce - (made - fleet.serving(ranks)));
    if (room > 0) await fleet.create(made, made + room);
    else await wait(createEveryMs);
    made += Math.max(0, room);
    if (performance.now() > deadline) throw new Error(`${fleet.serving(ranks)} of ${made} deployments serve after ${timeoutMs / 1000} s`);
  }
}

export async function phase({ operator, audit, othersCpu }: Fleet, work: () => Promise<unknown>): Promise<Phase> {
  audit.take(operatorUser);
  const [cpu, others, samples, started] = [operator.cpuSeconds(), othersCpu(), await operator.metrics(), performance.now()];
  await work();
  const seconds = (performance.now() - started) / 1000;
  const requests = audit.take(operatorUser);
  const writes = writesOf(requests);
  const name = "enodia_operator_reconcile_duration_seconds";
  const at = (of: typeof samples) => histogramOf(of, name, { controller: "moedeployment" });
  const reconciles = since(at(samples), at(await operator.metrics()));
  const cpuSeconds = operator.cpuSeconds() - cpu;
  const used = Object.entries(othersCpu()).map(([program, seconds]) => [program, seconds - (others[program] ?? 0)] as const);
  return { seconds, cpuSeconds, othersCpu: Object.fromEntries(used), writes, reads: totalOf(requests) - totalOf(writes), reconciles };
}

export const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export function listed(counts: ReadonlyMap<string, number>): string {
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  return `${totalOf(counts)} writes (${sorted.map(([key, count]) => `${count} ${key}`).join(", ")})`;
}

function cpuOf({ cpuSeconds, othersCpu }: Phase): string {
  return [["operator", cpuSeconds] as const, ...Object.entries(othersCpu)].map(([name, s]) => `${name} ${s.toFixed(1)}`).join(", ");
}

export const round = (value: number, digits: number): number => Number(value.toFixed(digits));

function milliseconds(histogram: Histogram, q: number): number | undefined {
  const seconds = quantile(histogram, q);
  return seconds === undefined ? undefined : round(1000 * seconds, 1);
}
