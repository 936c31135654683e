// A worker in a process of its own, as a pod has it, told by messages instead of an environment. It says what it has used so far when it
// is asked. Entry of that process; processes.ts starts it.
import { createEngine, type Engine, type EngineOptions } from "../../../runtime/engine/engine.ts";
import { fixedTls, type TlsMaterial } from "../../../runtime/net/tls.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import { startWorker, type WorkerOptions } from "../../../runtime/worker/worker.ts";

export interface Start {
  readonly options: WorkerOptions;
  readonly tls: TlsMaterial;
}

/** Milliseconds since the start. */
export interface Spent {
  /** CPU time of all threads. */
  cpu: number;
  /** Of the engine thread: dense programs; from the routing of a layer's rows to the answers of all experts, here and elsewhere; computing
   *  experts, for this rank's rows and for those of others. */
  dense: number;
  experts: number;
  computed: number;
  /** Products of an expert with some rows, and these rows. */
  calls: number;
  rows: number;
  /** Experts that rows waited for, their bytes, and that time. */
  loads: number;
  loadedBytes: number;
  stalled: number;
}

export interface Answer {
  readonly spent: Spent;
  /** Rows that chose each expert, by cells of the model's grid. */
  readonly routed: Float64Array;
}

const spent: Spent = { cpu: 0, dense: 0, experts: 0, computed: 0, calls: 0, rows: 0, loads: 0, loadedBytes: 0, stalled: 0 };
let routed = new Float64Array(0);

/** The engine counts since the last reading, and telemetry reads it too: every reading is added up. */
async function countingEngine(options: EngineOptions): Promise<Engine> {
  const engine = await createEngine(options);
  const read = engine.counters.bind(engine);
  return Object.assign(engine, {
    counters: async () => {
      const counters = await read();
      for (const { seconds, compute, routed: cells } of [counters.prefill, counters.decode]) {
        spent.dense += (seconds?.dense ?? 0) * 1000;
        spent.experts += (seconds?.experts ?? 0) * 1000;
        spent.computed += compute.micros / 1000;
        spent.calls += compute.calls;
        spent.rows += compute.rows;
        if (routed.length === 0) routed = new Float64Array(cells.length);
        for (const [cell, rows] of cells.entries()) routed[cell] = (routed[cell] as number) + rows;
      }
      return counters;
    },
  });
}

process.once("message", async ({ options, tls: { cert, key, ca } }: Start) => {
  const tls = fixedTls({ cert: Buffer.from(cert), key: Buffer.from(key), ca: Buffer.from(ca) });
  const { grpcPort, metricsPort, identity, engine, experts } = await startWorker(options, {
    log: silentLog,
    tls,
    createEngine: countingEngine,
  });
  process.on("message", async () => {
    await engine.counters();
    const { user, system } = process.cpuUsage();
    const { loads, bytes: loadedBytes, seconds } = experts.onDemand.misses;
    const missed = { loads, loadedBytes, stalled: seconds * 1000 };
    const now: Answer = { spent: { ...spent, ...missed, cpu: (user + system) / 1000 }, routed };
    process.send?.(now);
  });
  process.send?.({ grpcPort, metricsPort, identity });
});
process.on("disconnect", () => process.exit(0));
