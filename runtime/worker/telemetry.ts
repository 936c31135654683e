// The publisher of what this rank routed and served in each window, per phase, on the bus; dropped and counted when the bus is
// away. Windows are aligned to wall-clock multiples of their length, so that those of all ranks cover the same time.
import { encodeLoad, loadMessageBytesMax, loadSubject, phases } from "../../crds/telemetry.ts";
import type { Engine } from "../engine/engine.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { Identity } from "../wire/mapping.ts";
import type { Bus } from "../wire/nats.ts";

export interface TelemetryOptions {
  readonly engine: Pick<Engine, "counters">;
  readonly bus: Bus;
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly prefix: string;
  readonly layers: number;
  readonly experts: number;
  readonly windowMs: number;
  /** Id of the machine, set where the engine computes on the cores of its machine. */
  readonly machine: string | undefined;
  /** True while the operator asks where tokens go from layer to layer. */
  readonly transitions: () => boolean;
  readonly metrics: Metrics<"worker">;
  readonly log: Log;
}

/** Starts publishing; returns the way to stop. */
export function publishLoad(options: TelemetryOptions): () => void {
  const { windowMs, log } = options;
  let windowStart = Date.now();
  let seq = 0;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const schedule = () => {
    if (stopped) return;
    const next = (Math.floor(Date.now() / windowMs) + 1) * windowMs;
    timer = setTimeout(tick, next - Date.now());
    timer.unref();
  };
  const tick = () => {
    publish(options, windowStart, Date.now(), () => ++seq)
      .then(
        (end) => {
          windowStart = end;
        },
        (err) => log.error({ err }, "load of a window could not be published"),
      )
      .finally(schedule);
  };
  schedule();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

async function publish(options: TelemetryOptions, windowStart: number, windowEnd: number, nextSeq: () => number): Promise<number> {
  const { engine, bus, self, metrics, log, layers, experts } = options;
  const counters = await engine.counters({ transitions: options.transitions() });
  const subject = loadSubject(options.prefix, options.namespace, options.name, self.rank);
  for (const phase of phases) {
    const { transitions, compute, ...counts } = counters[phase];
    const load = {
      v: 1 as const,
      deploymentUID: self.deploymentUid,
      rank: self.rank,
      bootId: self.bootId,
      seq: nextSeq(),
      windowStart,
      windowEnd,
      phase,
      layers,
      experts,
      ...counts,
      compute: { ...compute, ...(options.machine === undefined ? {} : { machine: options.machine }) },
    };
    const whole = encodeLoad(transitions ? { ...load, transitions } : load);
    // The load itself comes first: without it nothing is balanced at all.
    const message = whole.length > loadMessageBytesMax && transitions ? encodeLoad(load) : whole;
    const fits = message.length <= loadMessageBytesMax;
    if (!fits) log.error({ bytes: message.length, layers, experts }, "a load message is above the limit and was not sent");
    const sent = fits && bus.publish(subject, message);
    metrics.add("enodia_telemetry_published_total", 1, { result: sent ? "ok" : "dropped" });
  }
  return windowEnd;
}
