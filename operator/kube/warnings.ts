// Warning events as the API server has them (core/v1), which `enodia status` and the page judge.
import { z } from "zod";
import type { Transport } from "./transport.ts";

/** Pages of 500. */
const pagesMax = 4;
const eventsPerPage = 500;

const pageSchema = z.object({
  items: z.array(z.unknown()).default([]),
  metadata: z.object({ continue: z.string().optional() }).prefault({}),
});

/** Those of one namespace, or of all; what came before an error was given out. */
export async function* warningItems(
  transport: Pick<Transport, "request">,
  namespace: string | undefined,
  signal?: AbortSignal,
): AsyncIterable<unknown> {
  const base = `/api/v1/${namespace === undefined ? "" : `namespaces/${encodeURIComponent(namespace)}/`}events`;
  const query = new URLSearchParams({ fieldSelector: "type=Warning", limit: String(eventsPerPage) });
  for (let page = 0; page < pagesMax; page += 1) {
    const call = { method: "GET", path: `${base}?${query}`, ...(signal ? { signal } : {}) } as const;
    const answer = pageSchema.parse(JSON.parse(await transport.request(call)));
    yield* answer.items;
    if (!answer.metadata.continue) return;
    query.set("continue", answer.metadata.continue);
  }
}
