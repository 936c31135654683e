// Means of the load that ranks report, for autoscaling. A rank without a working stream has no signals, which differs from no load.
import type { RankSignals } from "../../deployment/ports.ts";
import type { RankView } from "../observed.ts";
import type { PodStatus } from "../ports.ts";

const sampleMs = 1_000;
const windowMs = 15_000;

interface Sample {
  readonly at: number;
  readonly queuedTokens: number;
  readonly kvUse: number | undefined;
  readonly tokens: number | undefined;
}

interface Known {
  readonly samples: readonly Sample[];
  readonly signals: RankSignals;
}

type Heard = Pick<RankView, "pod" | "usable" | "report">;

export class SignalWindows {
  readonly #known = new Map<string, Known>();

  /** Samples each rank that is due, and returns the means of all connected ranks by pod uid. */
  look(views: readonly Heard[], now: number): ReadonlyMap<string, RankSignals> {
    const signals = new Map<string, RankSignals>();
    const here = new Set<string>();
    for (const { pod, usable, report } of views) {
      const bootId = report?.description?.bootId;
      if (bootId === undefined) continue;
      const process = `${pod.uid}/${bootId}`;
      here.add(process);
      if (!usable || !report?.status) continue;
      const known = withSample(this.#known.get(process), report.status, now);
      this.#known.set(process, known);
      signals.set(pod.uid, known.signals);
    }
    for (const process of this.#known.keys()) if (!here.has(process)) this.#known.delete(process);
    return signals;
  }
}

function withSample(known: Known | undefined, { queuedTokens, use }: PodStatus, at: number): Known {
  const last = known?.samples.at(-1);
  if (known && last && at - last.at < sampleMs) return known;
  const sample = { at, queuedTokens, kvUse: use && use.kvBlocksUsed / Math.max(1, use.kvBlocks), tokens: use?.tokens };
  // After the engine's first report its means start anew.
  const begins = use !== undefined && last?.tokens === undefined;
  const samples = [...(begins ? [] : (known?.samples ?? [])).filter((one) => at - one.at <= windowMs), sample];
  return { samples, signals: means(samples) };
}

function means(samples: readonly Sample[]): RankSignals {
  const [first, last] = [samples[0], samples.at(-1)];
  const spanMs = first && last ? last.at - first.at : 0;
  const tokens = first?.tokens !== undefined && last?.tokens !== undefined ? last.tokens - first.tokens : undefined;
  return {
    spanMs,
    queuedTokens: mean(samples.map(({ queuedTokens }) => queuedTokens)) ?? 0,
    kvUse: mean(samples.map(({ kvUse }) => kvUse)),
    tokensPerSecond: tokens === undefined || spanMs === 0 ? undefined : (Math.max(0, tokens) * 1_000) / spanMs,
  };
}

function mean(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length < values.length || known.length === 0 ? undefined : known.reduce((sum, value) => sum + value, 0) / known.length;
}
