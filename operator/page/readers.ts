// Readers with access ClusterToken see what their token may list. DECISIONS.md 2.
import { createHash } from "node:crypto";
import { AppError, apiGroup } from "../../crds/common.ts";
import { has, type Namespaces, type Scope, scopeOf } from "./scope.ts";

export const freshMs = 60_000;
export const staleMs = 180_000;
export const readersMax = 256;
export const namespacesMax = 100;
const askedAtOnce = 8;

interface ListRight {
  readonly group: string;
  readonly resource: string;
  readonly verb: string;
  readonly namespace?: string;
}

/** Throws `Unauthorized` for an unknown token. */
export type RightsOf = (token: string) => (right: ListRight) => Promise<boolean>;

interface ReadersParts {
  readonly rightsOf: RightsOf;
  readonly namespaces: () => { readonly deployments: readonly string[]; readonly jobs: readonly string[] };
  readonly bound: Namespaces;
  readonly now: () => number;
}

interface Reader {
  readonly token: string;
  /** Undefined for an unknown token. Throws while the API server is silent. */
  scope: Scope | undefined;
  at: number;
  pending: Promise<void> | undefined;
}

/** The reader's scope; undefined once it is unknown. */
export type Look = () => Scope | undefined;

export class Readers {
  readonly #parts: ReadersParts;
  readonly #known = new Map<string, Reader>();

  constructor(parts: ReadersParts) {
    this.#parts = parts;
  }

  /** The token's last answer is fresh. */
  knows(token: string): boolean {
    const reader = this.#known.get(keyOf(token));
    return reader !== undefined && (reader.scope !== undefined || this.#isWithin(reader, freshMs));
  }

  /** Undefined for an unknown token. Throws while the API server is silent and nothing is remembered. */
  async of(token: string): Promise<Look | undefined> {
    const key = keyOf(token);
    const reader = this.#known.get(key) ?? { token, scope: undefined, at: Number.NEGATIVE_INFINITY, pending: undefined };
    this.#known.delete(key);
    this.#known.set(key, reader);
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= readersMax) break;
      this.#known.delete(oldest);
    }
    if (!this.#isWithin(reader, freshMs)) {
      try {
        await this.#refresh(reader);
      } catch (caught) {
        if (reader.scope === undefined || !this.#isWithin(reader, staleMs)) throw caught;
      }
    }
    return reader.scope && (() => this.#look(reader));
  }

  #isWithin({ at }: Reader, ms: number): boolean {
    return this.#parts.now() - at < ms;
  }

  /** Refreshed while the stream lasts. */
  #look(reader: Reader): Scope | undefined {
    if (!this.#isWithin(reader, freshMs)) this.#refresh(reader).catch(() => undefined);
    return this.#isWithin(reader, staleMs) ? reader.scope : undefined;
  }

  #refresh(reader: Reader): Promise<void> {
    reader.pending ??= this.#answer(reader.token)
      .then((scope) => {
        reader.scope = scope;
        reader.at = this.#parts.now();
      })
      .finally(() => {
        reader.pending = undefined;
      });
    return reader.pending;
  }

  async #answer(token: string): Promise<Scope | undefined> {
    const may = this.#parts.rightsOf(token);
    const { deployments, jobs } = this.#parts.namespaces();
    try {
      return scopeOf(await this.#listed(may, "moedeployments", deployments), await this.#listed(may, "moetrainingjobs", jobs));
    } catch (caught) {
      if (AppError.from(caught).code === "Unauthorized") return undefined;
      throw caught;
    }
  }

  async #listed(may: ReturnType<RightsOf>, resource: string, namespaces: readonly string[]): Promise<Namespaces> {
    const right = { group: apiGroup, resource, verb: "list" };
    const { bound } = this.#parts;
    if (await may(right)) return bound;
    const candidates = [...new Set(namespaces)].filter((one) => has(bound, one)).toSorted();
    const found = new Set<string>();
    const queue = candidates.slice(0, namespacesMax).values();
    const work = async (): Promise<void> => {
      for (const namespace of queue) if (await may({ ...right, namespace })) found.add(namespace);
    };
    await Promise.all(Array.from({ length: askedAtOnce }, work));
    return found;
  }
}

/** The time of a lookup by token would leak it. */
const keyOf = (token: string): string => createHash("sha256").update(token).digest("base64");
