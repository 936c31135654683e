// Logs of pods through the API server, merged by time. Pods, lines and characters are bounded.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { downloaderComponent } from "../../crds/download.ts";
import { weightServerComponent } from "../../crds/weight-server.ts";
import { resources } from "../kube/kube.ts";
import type { Transport } from "../kube/transport.ts";
import { podFactsOf } from "../views/pods.ts";
import { findOperators } from "./doctor/operator.ts";
import type { ClusterAccess } from "./kube.ts";
import { byTime, type LogLine, lineCharsMax, parseLine } from "./log-lines.ts";
import type { Subject } from "./log-subject.ts";

export const podsMax = 64;
/** These bounds hold for all pods together. */
const linesMax = 50_000;
const charsMax = 128 * 1024 * 1024;
const waitingMax = 5_000;
/** A followed line waits this long for earlier ones of other pods. */
const holdMs = 500;
const againMs = 2_000;

export interface LogSource {
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
  readonly component: string;
}

const containers: Readonly<Record<string, string>> = {
  worker: "runtime",
  gateway: "gateway",
  [weightServerComponent]: "weight-server",
  [downloaderComponent]: "downloader",
  training: "runtime",
};

/** Gateways first; the operator's where visible. */
export async function sourcesOf(
  { kube }: Pick<ClusterAccess, "kube">,
  { namespace, subject }: { readonly namespace: string; readonly subject: Subject },
  components: readonly string[],
): Promise<LogSource[]> {
  const { items } = await kube.list(resources.pods, { namespace, labelSelector: `${subject.label}=${subject.name}` });
  const own = items.flatMap((object): LogSource[] => {
    const facts = podFactsOf(object);
    const container = facts && containers[facts.component];
    if (!facts || container === undefined || !components.includes(facts.component)) return [];
    return [{ namespace: facts.namespace, pod: facts.name, container, component: facts.component }];
  });
  const all = [...own, ...(components.includes("operator") ? await operatorSources(kube) : [])];
  return all.toSorted((a, b) => a.component.localeCompare(b.component) || a.pod.localeCompare(b.pod));
}

async function operatorSources(kube: ClusterAccess["kube"]): Promise<LogSource[]> {
  const operators = (await findOperators(kube)) ?? [];
  const found = await Promise.all(
    operators.map(async ({ namespace }): Promise<LogSource[]> => {
      try {
        const selector = "app.kubernetes.io/part-of=enodia,app.kubernetes.io/component=operator";
        const { items } = await kube.list(resources.pods, { namespace, labelSelector: selector });
        return items.map(({ metadata }) => ({ namespace, pod: metadata.name, container: "operator", component: "operator" }));
      } catch (caught) {
        if (AppError.from(caught).code === "Forbidden") return [];
        throw caught;
      }
    }),
  );
  return found.flat();
}

export interface Reading {
  readonly tail: number;
  readonly sinceSeconds?: number | undefined;
  /** The process before the last restart. */
  readonly previous?: boolean;
}

function logPath({ namespace, pod, container }: LogSource, query: Readonly<Record<string, string>>): string {
  const search = new URLSearchParams({ container, timestamps: "true", ...query });
  return `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(pod)}/log?${search}`;
}

function queryOf({ tail, sinceSeconds, previous }: Reading): Record<string, string> {
  const query: Record<string, string> = { tailLines: String(tail) };
  if (sinceSeconds !== undefined) query.sinceSeconds = String(sinceSeconds);
  if (previous) query.previous = "true";
  return query;
}

/** The API server answers 204 for a pod without a node. */
export function whyNot(caught: unknown): string {
  const { message } = AppError.from(caught);
  return message === "HTTP 204" ? "it has not begun" : message;
}

export interface ReadLogs {
  readonly lines: readonly LogLine[];
  readonly without: readonly { readonly pod: string; readonly why: string }[];
}

/** At most `chars` characters. */
export async function podLogLines(
  transport: Pick<Transport, "stream">,
  source: LogSource,
  reading: Reading,
  chars: number,
): Promise<string[]> {
  const lines: string[] = [];
  let total = 0;
  let first = 0;
  const path = logPath(source, queryOf({ ...reading, tail: Math.min(reading.tail, linesMax) }));
  for await (const line of transport.stream({ method: "GET", path })) {
    const cut = line.slice(0, lineCharsMax);
    lines.push(cut);
    total += cut.length;
    for (; total > chars && first < lines.length; first += 1) {
      total -= lines[first]?.length ?? 0;
      lines[first] = "";
    }
  }
  return lines.slice(first);
}

export async function readLogs(transport: Pick<Transport, "stream">, sources: readonly LogSource[], reading: Reading): Promise<ReadLogs> {
  const some = sources.slice(0, podsMax);
  const partOf = (all: number): number => Math.max(1, Math.floor(all / Math.max(1, some.length)));
  const tail = Math.min(reading.tail, partOf(linesMax));
  const lines: LogLine[] = [];
  const without: { pod: string; why: string }[] = [];
  await Promise.all(
    some.map(async (source) => {
      try {
        for (const line of await podLogLines(transport, source, { ...reading, tail }, partOf(charsMax))) {
          const parsed = parseLine(source.pod, line);
          if (parsed) lines.push(parsed);
        }
      } catch (caught) {
        without.push({ pod: source.pod, why: whyNot(caught) });
      }
    }),
  );
  return { lines: lines.sort(byTime), without };
}

/** Includes later pods and restarts. */
export async function followLogs(
  transport: Pick<Transport, "stream">,
  find: () => Promise<readonly LogSource[]>,
  { reading, tell, signal }: { readonly reading: Reading; readonly tell: (lines: LogLine[]) => void; readonly signal: AbortSignal },
): Promise<void> {
  const waiting: LogLine[] = [];
  const open = new Set<string>();
  const last = new Map<string, string>();
  const follow = async (source: LogSource): Promise<void> => {
    const from = last.get(source.pod);
    const query = from === undefined ? queryOf(reading) : { sinceTime: from };
    try {
      for await (const line of transport.stream({ method: "GET", path: logPath(source, { ...query, follow: "true" }), signal })) {
        const parsed = parseLine(source.pod, line);
        if (!parsed || parsed.at <= (last.get(source.pod) ?? "")) continue;
        last.set(source.pod, parsed.at);
        waiting.push(parsed);
        if (waiting.length > waitingMax) tell(waiting.splice(0).sort(byTime));
      }
    } catch {
      // It is not there yet or has ended; the next round finds out.
    } finally {
      open.delete(source.pod);
    }
  };
  const streams = new Set<Promise<void>>();
  let lookedAt = Number.NEGATIVE_INFINITY;
  while (!signal.aborted) {
    if (performance.now() - lookedAt > againMs) {
      lookedAt = performance.now();
      const sources = await find().catch(() => []);
      for (const source of sources.filter(({ pod }) => !open.has(pod)).slice(0, Math.max(0, podsMax - open.size))) {
        open.add(source.pod);
        const stream = follow(source);
        streams.add(stream);
        stream.finally(() => streams.delete(stream));
      }
    }
    await sleep(holdMs, undefined, { signal }).catch(() => undefined);
    tell(waiting.splice(0).sort(byTime));
  }
  await Promise.all(streams);
}
