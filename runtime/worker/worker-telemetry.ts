// Publishes what this rank routed and served per window and phase, signed, on NATS or else on the operator's Control stream. Windows are aligned to the wall clock on all ranks;
// sending is spread over time, so that the reader is not flooded.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { AppError } from "../../crds/common.ts";
import { encodeLoad, type LoadWindow, loadJitterMsMax, loadMessageBytesMax, loadSubject, phases } from "../../crds/telemetry.ts";
import { decodeTelemetryKeys, type TelemetryKey } from "../../crds/telemetry-keys.ts";
import type { Engine, LoadCounters } from "../engine/engine.ts";
import type { Misses } from "../experts/on-demand.ts";
import { signLoad } from "../net/load-signature.ts";
import type { Identity } from "../net/mapping.ts";
import type { Bus } from "../net/nats.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import type { SteadyClock } from "../observe/steady-clock.ts";

export interface TelemetryOptions {
  readonly engine: Pick<Engine, "counters">;
  readonly bus: Bus | undefined;
  /** Sends a window's messages on Control streams: on all, or on those that ask for what NATS took. True when one got them. */
  readonly report: (messages: readonly string[], onAll: boolean) => boolean;
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly prefix: string;
  readonly layers: number;
  readonly experts: number;
  readonly windowMs: number;
  readonly clock: SteadyClock;
  /** All of them since the start; unset unless the rank may be oversubscribed. */
  readonly misses?: (() => Misses) | undefined;
  /** Set where the engine computes on cores. */
  readonly machine: string | undefined;
  /** Undefined: nothing is sent. */
  readonly signingKey: () => Promise<TelemetryKey | undefined>;
  readonly metrics: Metrics<"worker">;
  readonly log: Log;
}

const jitterPart = 1 / 4;
const golden = (Math.sqrt(5) - 1) / 2;

/** Milliseconds after a window's end at which a rank sends it. */
export function jitterMs({ deploymentUid, rank }: Pick<Identity, "deploymentUid" | "rank">, windowMs: number): number {
  const first = createHash("sha256").update(deploymentUid).digest().readUInt32LE() / 2 ** 32;
  return ((first + rank * golden) % 1) * Math.min(jitterPart * windowMs, loadJitterMsMax);
}

export function publishLoad(options: TelemetryOptions): () => void {
  const { engine, self, windowMs, clock, log } = options;
  const waitMs = jitterMs(self, windowMs);
  let windowStart = clock();
  let seq = 0;
  let missed = options.misses?.();
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const after = (ms: number, what: () => Promise<void>) => {
    if (stopped) return;
    timer = setTimeout(() => {
      what().catch((err: unknown) => {
        log.error({ err }, "load of a window could not be published");
        schedule();
      });
    }, ms);
    timer.unref();
  };
  const schedule = () => {
    const now = clock();
    after((Math.floor(now / windowMs) + 1) * windowMs - now, take);
  };
  const take = async () => {
    const counted = { start: windowStart, end: clock(), counters: await engine.counters() };
    windowStart = counted.end;
    const [before, now] = [missed, options.misses?.()];
    missed = now;
    after(waitMs, async () => {
      await publish(options, { ...counted, misses: before && now && missesBetween(before, now) }, () => ++seq);
      schedule();
    });
  };
  schedule();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

interface Counted {
  /** Unix ms. */
  readonly start: number;
  readonly end: number;
  readonly counters: LoadCounters;
  readonly misses: LoadWindow["misses"];
}

const missesBetween = (before: Misses, now: Misses): LoadWindow["misses"] => ({
  loads: now.loads - before.loads,
  bytes: now.bytes - before.bytes,
  micros: Math.round((now.seconds - before.seconds) * 1e6),
});

async function publish(options: TelemetryOptions, { start, end, counters, misses }: Counted, nextSeq: () => number): Promise<void> {
  const { bus, self, metrics, log, layers, experts, report } = options;
  const subject = loadSubject(options.prefix, options.namespace, options.name, self.rank);
  const key = await options.signingKey();
  const messages = phases.flatMap((phase) => {
    const { compute, ...counts } = counters[phase];
    const load = {
      v: 1 as const,
      deploymentUID: self.deploymentUid,
      rank: self.rank,
      bootId: self.bootId,
      seq: nextSeq(),
      windowStart: start,
      windowEnd: end,
      phase,
      layers,
      experts,
      ...counts,
      ...(misses && phase === "decode" ? { misses } : {}), // once in a window
      compute: { ...compute, ...(options.machine === undefined ? {} : { machine: options.machine }) },
    };
    const message = key && signedWithin(load, key);
    if (key && !message) log.error({ layers, experts }, "a load message is above the limit and was not sent");
    if (!message) metrics.add("enodia_telemetry_published_total", 1, { result: key ? "dropped" : "no_key" });
    return message ?? [];
  });
  const published = messages.map((message) => bus?.publish(subject, message) ?? false);
  const reported = messages.length > 0 && report(messages, published.includes(false));
  for (const sent of published) metrics.add("enodia_telemetry_published_total", 1, { result: sent || reported ? "ok" : "dropped" });
}

/** Undefined when the message is above the limit. */
function signedWithin(load: LoadWindow, key: TelemetryKey): string | undefined {
  const message = signLoad(encodeLoad(load), key);
  return message.length <= loadMessageBytesMax ? message : undefined;
}

/** Reads at every call, since the operator rotates the key; undefined without a readable key. */
export function signingKeyAt(path: string | undefined, log: Log): () => Promise<TelemetryKey | undefined> {
  let last = "";
  const report = (problem: string): undefined => {
    if (problem !== last && problem !== "") log.warn({ path, problem }, "no key to sign load messages with: none is sent");
    last = problem;
    return undefined;
  };
  return async () => {
    if (path === undefined) return report("none is configured");
    try {
      const [newest] = decodeTelemetryKeys(await readFile(path, "utf8"));
      report("");
      return newest;
    } catch (caught) {
      return report(
        caught instanceof AppError ? caught.message : `${path} cannot be read: the telemetry Secret is missing or not mounted yet`,
      );
    }
  };
}

const bootIdFile = "/proc/sys/kernel/random/boot_id";
const idCharsMax = 64;

/** Equal in all containers of a machine; undefined where the kernel does not report it. */
export function machineId(): string | undefined {
  try {
    return readFileSync(bootIdFile, "utf8").trim().slice(0, idCharsMax) || undefined;
  } catch {
    return undefined;
  }
}
