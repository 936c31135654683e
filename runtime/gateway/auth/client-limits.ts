// A client's limits at this gateway: requests and tokens a minute, concurrent requests, priority.
import type { GatewayClient } from "../../../crds/gateway-access.ts";
import { type Problem, problems } from "../problem.ts";
import type { Caller } from "./access-token.ts";

const minuteMs = 60_000;
/** Computations without a reader that are followed for a client without `concurrentRequests`. */
const unreadMax = 64;
/** Nobody can predict the end of a running request. */
const busyRetrySeconds = 1;

/** A rate with a burst of one minute; debt is repaid first. */
class Allowance {
  readonly #perMinute: number;
  #level: number;
  #at: number;

  constructor(perMinute: number, now: number) {
    this.#perMinute = perMinute;
    this.#level = perMinute;
    this.#at = now;
  }

  /** Milliseconds until one is available. */
  waitMs(now: number): number {
    const passedMs = Math.max(0, now - this.#at); // ignore a clock that was set back
    this.#level = Math.min(this.#perMinute, this.#level + (passedMs * this.#perMinute) / minuteMs);
    this.#at = now;
    return this.#level >= 1 ? 0 : ((1 - this.#level) * minuteMs) / this.#perMinute;
  }

  take(count: number): void {
    this.#level -= count;
  }

  /** What is left, and the time until all of it is. */
  shown(now: number): readonly [limit: string, remaining: string, reset: string] {
    this.waitMs(now);
    const seconds = Math.ceil(((this.#perMinute - this.#level) * minuteMs) / this.#perMinute / 1000);
    const reset = seconds < 60 ? `${seconds}s` : `${Math.floor(seconds / 60)}m${seconds % 60}s`;
    return [String(this.#perMinute), String(Math.max(0, Math.floor(this.#level))), reset];
  }
}

interface Counted {
  readonly limits: GatewayClient;
  readonly requests: Allowance | undefined;
  readonly tokens: Allowance | undefined;
  inside: number;
  /** Those among them that are computed though their reader left: the key is their id, the value gives their place back. */
  readonly unread: Map<string, () => void>;
}

export interface ClientEntry {
  /** Charges `outputTokens`; idempotent. */
  leave(outputTokens: number): void;
  /** Its client left and the answer is computed on: leaves once that is `over`, or when the client asks for the answer again. */
  stay(id: string, outputTokens: number, over: (signal: AbortSignal) => Promise<number>): void;
}

const limited = ["requests", "tokens"] as const;
const shownParts = ["limit", "remaining", "reset"] as const;
const headerOf = (part: (typeof shownParts)[number], of: (typeof limited)[number]): string => `x-ratelimit-${part}-${of}`;
/** OpenAI's names. */
export const limitHeaders: readonly string[] = limited.flatMap((of) => shownParts.map((part) => headerOf(part, of)));

const unlimited: ClientEntry = { leave: () => {}, stay: () => {} };

export class ClientLimits {
  readonly #clients: ReadonlyMap<string, Counted>;
  readonly #now: () => number;

  constructor(clients: readonly GatewayClient[], now: () => number) {
    const counted = (limits: GatewayClient): Counted => ({
      limits,
      requests: limits.requestsPerMinute === undefined ? undefined : new Allowance(limits.requestsPerMinute, now()),
      tokens: limits.tokensPerMinute === undefined ? undefined : new Allowance(limits.tokensPerMinute, now()),
      inside: 0,
      unread: new Map(),
    });
    this.#clients = new Map(clients.map((limits) => [limits.name, counted(limits)]));
    this.#now = now;
  }

  /** Undefined when the client may ask. `id`: the computation that is asked for, "" for a new one; while it is not known, none without a reader counts. */
  refusal(name: string, id?: string): Problem | undefined {
    const client = this.#clients.get(name);
    if (client === undefined) return undefined;
    const { limits, requests, tokens, unread } = client;
    const inside = client.inside - (id === undefined ? unread.size : Number(unread.has(id)));
    const { requestsPerMinute = 0, tokensPerMinute = 0, concurrentRequests = Number.POSITIVE_INFINITY } = limits;
    const refused = (limit: string, afterMs: number) => problems.quota(name, limit, Math.ceil(afterMs / 1000));
    if (inside >= concurrentRequests) return refused(`${concurrentRequests} requests at once`, busyRetrySeconds * 1000);
    const now = this.#now();
    const requestMs = requests?.waitMs(now) ?? 0;
    if (requestMs > 0) return refused(`${requestsPerMinute} requests a minute`, requestMs);
    const tokenMs = tokens?.waitMs(now) ?? 0;
    return tokenMs > 0 ? refused(`${tokensPerMinute} tokens a minute`, tokenMs) : undefined;
  }

  enter(name: string, promptTokens: number): ClientEntry | { readonly problem: Problem } {
    const problem = this.refusal(name, "");
    return problem ? { problem } : this.charge(name, promptTokens);
  }

  /** Charges a request that is not refused, and its prompt tokens. */
  charge(name: string, promptTokens: number, id = ""): ClientEntry {
    const client = this.#clients.get(name);
    if (client === undefined) return unlimited;
    client.unread.get(id)?.();
    client.inside++;
    client.requests?.take(1);
    client.tokens?.take(promptTokens);
    let left = false;
    const leave = (outputTokens: number) => {
      if (left) return;
      left = true;
      client.inside--;
      client.tokens?.take(outputTokens);
    };
    const stay: ClientEntry["stay"] = (id, outputTokens, over) => {
      client.unread.get(id)?.();
      if (client.limits.concurrentRequests === undefined && client.unread.size >= unreadMax) return leave(outputTokens);
      const end = new AbortController();
      const release = (tokens = outputTokens) => {
        end.abort();
        if (client.unread.get(id) === asked) client.unread.delete(id);
        leave(tokens);
      };
      const asked = () => release();
      client.unread.set(id, asked);
      over(end.signal).then((tokens) => release(Math.max(tokens, outputTokens)), asked);
    };
    return { leave, stay };
  }

  /** Headers for those limits a minute that the client has. */
  headers(name: string): Record<string, string> {
    const client = this.#clients.get(name);
    const now = this.#now();
    const shown = limited.flatMap(
      (of) => client?.[of]?.shown(now).map((value, i) => [headerOf(shownParts[i] ?? "limit", of), value]) ?? [],
    );
    return Object.fromEntries(shown);
  }

  /** A request cannot be more urgent than its client's token or entry permits. */
  priorityOf({ client, priority }: Caller, requested: number | undefined): number {
    const own = priority ?? this.#clients.get(client)?.limits.priority ?? 0;
    return Math.max(own, requested ?? own);
  }
}
