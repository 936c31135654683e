// Warning events of the namespaces whose deployments and jobs are looked at, read when a page asks for them (DECISIONS.md 6).
import { AppError } from "../../crds/common.ts";
import { recentMs } from "../views/findings/events.ts";
import type { Unread, WarningEvent } from "../views/findings/finding.ts";
import { warningOf } from "../views/findings/seen.ts";

export const freshMs = 10_000;
/** As many as look at once (`clientsMax`); the one that was asked for longest ago goes. */
export const namespacesMax = 32;
const answerMsMax = 5_000;

export interface Warnings {
  readonly events: readonly WarningEvent[];
  readonly unread: readonly Unread[];
}

interface WarningReaderParts {
  readonly read: (namespace: string, signal: AbortSignal) => AsyncIterable<unknown>;
  readonly now: () => number;
}

const pending: Warnings = { events: [], unread: [{ what: "events", why: "they are being read" }] };

export class WarningReader {
  readonly #parts: WarningReaderParts;
  readonly #known = new Map<string, { warnings: Warnings; readonly at: number }>();

  constructor(parts: WarningReaderParts) {
    this.#parts = parts;
  }

  /** The last answer; an old one is asked for again, once at a time. */
  of(namespace: string): Warnings {
    const now = this.#parts.now();
    const before = this.#known.get(namespace);
    const known = before && now - before.at < freshMs ? before : { warnings: before?.warnings ?? pending, at: now };
    this.#known.delete(namespace);
    this.#known.set(namespace, known);
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= namespacesMax) break;
      this.#known.delete(oldest);
    }
    if (known !== before) void this.#read(namespace, now).then((warnings) => (known.warnings = warnings));
    return known.warnings;
  }

  async #read(namespace: string, now: number): Promise<Warnings> {
    const events: WarningEvent[] = [];
    try {
      for await (const item of this.#parts.read(namespace, AbortSignal.timeout(answerMsMax))) {
        const event = warningOf(item);
        if (event && now - event.lastAt.getTime() <= recentMs) events.push(event);
      }
      return { events, unread: [] };
    } catch (caught) {
      return { events, unread: [{ what: "events", why: AppError.from(caught).message }] };
    }
  }
}
