// Server-sent events: the page as a whole, then changed sections at most once a second. DECISIONS.md 3.
import type { ServerResponse } from "node:http";
import { type Page, pages } from "./pages.ts";
import type { Look } from "./readers.ts";
import { seen } from "./scope.ts";
import type { PageState } from "./state.ts";

export const tickMs = 1_000;
/** Proxies end silent streams. */
const heartbeatMs = 10_000;
export const clientsMax = 32;
/** A client that has read nothing for this long is disconnected. */
export const stalledMs = 15_000;
/** Maximum life of a stream; the browser reconnects. */
export const streamMs = 3_600_000;
/** The browser's pause before it reconnects. */
const retryMs = 2_000;
/** Larger states are dropped; tables are bounded, so that none should be. */
export const messageBytesMax = 2 * 1024 * 1024;

interface Client {
  readonly response: ServerResponse;
  readonly page: string;
  readonly query: URLSearchParams;
  readonly look: Look;
  readonly key: string;
  readonly since: number;
  /** Last sent content by section; the map's numbers are "heat". */
  readonly sent: Map<string, string>;
  spokenAt: number;
  /** Unix ms since which it has read nothing. */
  fullSince: number | undefined;
}

interface StreamsParts {
  readonly pageState: Pick<PageState, "leads" | "leader" | "source">;
  /** Unix ms. */
  readonly now: () => number;
  /** A failing view ends only its own stream. */
  readonly onError: (error: unknown) => void;
}

const event = (name: string, data: unknown): string => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;

function changes(page: Page, sent: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const parts = [
    ...Object.entries(page.sections).map(([id, { text }]) => [id, text] as const),
    ["heat", JSON.stringify(page.heat ?? null)] as const,
  ];
  return new Map(parts.filter(([id, text]) => sent.get(id) !== text));
}

function messageOf(changed: ReadonlyMap<string, string>, now: number): string {
  const heat = changed.get("heat");
  const sections = Object.fromEntries([...changed].filter(([id]) => id !== "heat"));
  return event("state", { at: now, sections, ...(heat === undefined ? {} : { heat: JSON.parse(heat) }) });
}

export class Streams {
  readonly #parts: StreamsParts;
  readonly #clients = new Set<Client>();

  constructor(parts: StreamsParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#clients.size;
  }

  /** False at the limit of clients. */
  add(response: ServerResponse, page: string, query: URLSearchParams, look: Look): boolean {
    if (this.#clients.size >= clientsMax) return false;
    const now = this.#parts.now();
    const client: Client = {
      response,
      page,
      query,
      look,
      key: `${page}?${query}`,
      since: now,
      sent: new Map(),
      spokenAt: now,
      fullSince: undefined,
    };
    this.#clients.add(client);
    response.once("close", () => this.#clients.delete(client));
    response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no" });
    response.write(`retry: ${retryMs}\n\n`);
    this.#serve(client, now, new Map());
    return true;
  }

  /** Renders each view once for all its clients. */
  tick(): void {
    const now = this.#parts.now();
    const made = new Map<string, Page>();
    for (const client of this.#clients) {
      try {
        this.#serve(client, now, made);
      } catch (error) {
        this.#parts.onError(error);
        client.response.destroy();
      }
    }
  }

  #serve(client: Client, now: number, made: Map<string, Page>): void {
    const { response } = client;
    if (response.writableNeedDrain) {
      client.fullSince ??= now;
      if (now - client.fullSince >= stalledMs) response.destroy();
      return;
    }
    client.fullSince = undefined;
    const { leads, leader } = this.#parts.pageState;
    if (!leads || now - client.since >= streamMs) {
      response.end(leads ? undefined : event("standby", { leader: leader ?? null }));
      return;
    }
    const scope = client.look();
    const key = `${scope?.key} ${client.key}`;
    const page = scope && (made.get(key) ?? pages[client.page]?.(seen(this.#parts.pageState.source(), scope), client.query));
    if (!page) return void response.end(); // an unknown reader reconnects and is checked
    made.set(key, page);
    this.#tell(client, page, now);
  }

  #tell(client: Client, page: Page, now: number): void {
    const { response, sent } = client;
    const changed = changes(page, sent);
    const message = changed.size > 0 ? messageOf(changed, now) : undefined;
    if (message !== undefined && Buffer.byteLength(message) > messageBytesMax) return void response.end(event("tooLarge", {}));
    for (const [id, text] of changed) sent.set(id, text);
    if (message === undefined && now - client.spokenAt < heartbeatMs) return;
    client.spokenAt = now;
    response.write(message ?? event("alive", { at: now }));
  }

  close(): void {
    for (const { response } of this.#clients) response.destroy();
  }
}
