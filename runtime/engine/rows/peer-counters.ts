// What connections count for metrics and traces, in batches, since a message per frame would wake the main thread.
import type { FrameResult, FrameStallPart } from "../../../crds/names.ts";
import type { FrameSpan, PeerCounts } from "../api.ts";

const listedMax = 4_096;
const problemsMax = 16;

const noResults = (): Record<FrameResult, number> => ({ ok: 0, not_hosted: 0, busy: 0, rejected: 0, error: 0 });
const nothing = () => ({
  changes: 0,
  sent: { results: noResults(), bytes: 0, received: 0, seconds: [] as number[], retries: 0, stalls: [] as Stall[] },
  used: new Set<number>(),
  served: { results: noResults(), experts: new Map<number, Set<number>>() },
  newer: new Set<number>(),
  spans: [] as FrameSpan[],
  problems: [] as string[],
});

interface Stall {
  readonly part: FrameStallPart;
  readonly seconds: number;
}

export class PeerCounters {
  #counts = nothing();
  #now = { connections: 0, pending: 0 };

  used(rank: number): void {
    this.#change().used.add(rank);
  }
  sent(ms: number, bytes: number, received: number): void {
    const { sent } = this.#change();
    sent.results.ok += 1;
    sent.bytes += bytes;
    sent.received += received;
    if (sent.seconds.length < listedMax) sent.seconds.push(ms / 1000);
  }
  failed(result: FrameResult): void {
    this.#change().sent.results[result] += 1;
  }
  retried(): void {
    this.#change().sent.retries += 1;
  }
  stalled(part: FrameStallPart, seconds: number): void {
    const { stalls } = this.#change().sent;
    if (stalls.length < listedMax) stalls.push({ part, seconds });
  }
  served(layer: number, pairExperts: Uint32Array): void {
    const { served } = this.#change();
    served.results.ok += 1;
    const experts = served.experts.get(layer) ?? new Set<number>();
    for (const expert of pairExperts) experts.add(expert);
    served.experts.set(layer, experts);
  }
  refused(result: FrameResult): void {
    this.#change().served.results[result] += 1;
  }
  newer(rank: number): void {
    this.#change().newer.add(rank);
  }
  span(span: FrameSpan): void {
    const { spans } = this.#change();
    if (spans.length < listedMax) spans.push(span);
  }
  problem(message: string): void {
    const { problems } = this.#change();
    if (problems.length < problemsMax) problems.push(message);
  }

  /** Undefined when nothing changed. */
  take(connections: number, pending: number): PeerCounts | undefined {
    const { changes, used, served, newer, ...rest } = this.#counts;
    if (changes === 0 && connections === this.#now.connections && pending === this.#now.pending) return undefined;
    this.#counts = nothing();
    this.#now = { connections, pending };
    const touched = [...served.experts].map(([layer, experts]) => ({ layer, experts: [...experts] }));
    return { ...rest, ...this.#now, used: [...used], newer: [...newer], served: { results: served.results, touched } };
  }

  #change(): ReturnType<typeof nothing> {
    this.#counts.changes += 1;
    return this.#counts;
  }
}
