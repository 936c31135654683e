// The requests that a user made of the API server, counted from its audit log: what the server itself saw, not what a client says of
// itself. A request has one line, written when it was answered.
import { closeSync, openSync, readSync, statSync } from "node:fs";

interface Line {
  readonly verb: string;
  readonly user: { readonly username: string };
  readonly objectRef?: { readonly resource: string; readonly subresource?: string };
  readonly responseStatus?: { readonly code: number };
}

/** "patch moedeployments/status" -> how often. */
type Requests = ReadonlyMap<string, number>;

const writing = new Set(["create", "update", "patch", "delete"]);

export class AuditLog {
  readonly #file: string;
  #offset = 0;

  constructor(file: string) {
    this.#file = file;
  }

  /** The requests of a user since the last reading. */
  take(user: string): Requests {
    return this.takeAll([user]).get(user) ?? new Map();
  }

  /** The same of several users, by their names. */
  takeAll(users: readonly string[]): ReadonlyMap<string, Requests> {
    const counts = new Map(users.map((user) => [user, new Map<string, number>()]));
    for (const text of this.#rest().split("\n")) {
      if (text === "") continue;
      const { verb, objectRef, user } = JSON.parse(text) as Line;
      const own = counts.get(user.username);
      if (!own || !objectRef) continue;
      const { resource, subresource } = objectRef;
      const key = `${verb} ${resource}${subresource === undefined ? "" : `/${subresource}`}`;
      own.set(key, (own.get(key) ?? 0) + 1);
    }
    return counts;
  }

  /** Whole lines that were written since the last reading. */
  #rest(): string {
    const bytes = Buffer.alloc(statSync(this.#file).size - this.#offset);
    const file = openSync(this.#file, "r");
    try {
      readSync(file, bytes, 0, bytes.byteLength, this.#offset);
    } finally {
      closeSync(file);
    }
    const whole = bytes.lastIndexOf("\n") + 1;
    this.#offset += whole;
    return bytes.toString("utf8", 0, whole);
  }
}

/** Writes alone, without the lease of the leader. */
export function writesOf(requests: Requests): Map<string, number> {
  return new Map([...requests].filter(([key]) => writing.has(key.split(" ")[0] ?? "") && !key.endsWith(" leases")));
}

export const totalOf = (requests: Requests): number => [...requests.values()].reduce((sum, count) => sum + count, 0);
