// What the gateway's handlers share: request context, accounting and refusals.
import type { HttpBindings } from "@hono/node-server";
import type { Context } from "hono";
import type { Tracing } from "../../observe/trace.ts";
import type { Authenticator } from "../auth/authenticator.ts";
import type { ClientEntry, ClientLimits } from "../auth/client-limits.ts";
import { type Problem, problemBody, problems, rejectReason } from "../problem.ts";
import { type Admission, type Admitted, retryAfterSeconds } from "../routing/admission.ts";
import type { AnswerDeps } from "./answer.ts";
import type { Bodies } from "./bodies.ts";
import type { UnknownFields } from "./unknown-fields.ts";

/** Counted for a request whose client went away. */
export const clientGone = 499;

/** Load shown to an InferencePool's endpoint picker. */
export interface PoolLoad {
  readonly model: string;
  /** Requests that no worker computes yet; `running` counts the others. */
  readonly waiting: number;
  readonly running: number;
  /** Share of the KV cache in use; undefined where no worker reported it. */
  readonly kvUse: number | undefined;
}

export interface AppDeps extends AnswerDeps {
  readonly servedName: string;
  readonly version: string;
  /** Unix seconds; shown in the model list. */
  readonly created: number;
  readonly admission: Admission;
  readonly bodies: Bodies;
  readonly authenticator: Authenticator;
  /** "*" alone = all. */
  readonly corsOrigins: readonly string[];
  readonly clients: ClientLimits;
  readonly unknownFields: UnknownFields;
  readonly prefixIsolation: boolean;
  readonly tracing: Tracing;
  readonly load: () => PoolLoad;
  readonly fingerprint: () => string | undefined;
  /** Undefined when a worker is or recently was ready. */
  readonly unavailable: () => string | undefined;
  /** True while the deployment is scaled to zero; the first request starts ranks. */
  readonly holds: () => boolean;
}

export type Endpoint = "chat" | "completions" | "responses" | "embeddings" | "models" | "other";
interface Variables {
  requestId: string;
  endpoint: Endpoint;
  startedAt: number;
  counted: boolean;
  client: string;
  tenant: string;
  priority: number | undefined;
}
export type Env = { Bindings: HttpBindings; Variables: Variables };
export type Ctx = Context<Env>;

/** `trace` may be "". */
export function count(c: Ctx, deps: AppDeps, code: number, trace = ""): void {
  c.set("counted", true);
  const endpoint = c.get("endpoint");
  deps.metrics.add("enodia_gateway_requests_total", 1, { endpoint, code: String(code) });
  const seconds = (deps.now() - c.get("startedAt")) / 1000;
  deps.metrics.observeTraced(trace, "enodia_gateway_request_duration_seconds", seconds, { endpoint });
}

export function refuse(c: Ctx, deps: AppDeps, problem: Problem): Response {
  deps.metrics.add("enodia_gateway_rejected_total", 1, { reason: rejectReason(problem) });
  return problemResponse(c, problem);
}

export function problemResponse(c: Ctx, problem: Problem): Response {
  if (problem.retryAfterSeconds !== undefined) c.header("retry-after", String(problem.retryAfterSeconds));
  if (problem.status === 401) c.header("www-authenticate", problem.challenge === undefined ? "Bearer" : `Bearer ${problem.challenge}`);
  return c.json(problemBody(problem), problem.status);
}

/** A place in this gateway and in its client's limits. */
export interface Place {
  readonly admitted: Admitted;
  readonly client: ClientEntry;
}

interface Cost {
  readonly bytes: number;
  readonly promptTokens: number;
  readonly promptLogprobs: number;
  /** Of the computation that may be under way. */
  readonly id?: string | undefined;
}

export function enter(
  c: Ctx,
  deps: AppDeps,
  { bytes, promptTokens, promptLogprobs, id = "" }: Cost,
): Place | { readonly problem: Problem } {
  const unavailable = deps.unavailable();
  if (unavailable !== undefined) return { problem: problems.noWorker(unavailable, retryAfterSeconds) };
  const problem = deps.clients.refusal(c.get("client"), id); // before admission, which wakes ranks
  const admitted = problem ? { problem } : deps.admission.enter({ promptLogprobs, bytes, holder: holderOf(c), holds: deps.holds() });
  const place = "problem" in admitted ? admitted : { admitted, client: deps.clients.charge(c.get("client"), promptTokens, id) };
  showLimits(c, deps);
  return place;
}

/** Work that no rank's admission bounds: more than `max` of it at once is refused. */
export class AtOnce {
  readonly #max: number;
  #inside = 0;

  constructor(max: number) {
    this.#max = max;
  }

  async run<T>(c: Ctx, deps: AppDeps, work: () => Promise<T>): Promise<T | Response> {
    if (this.#inside >= this.#max) return refuse(c, deps, problems.queueFull(retryAfterSeconds));
    this.#inside++;
    try {
      return await work();
    } finally {
      this.#inside--;
    }
  }
}

/** Whose share of the bodies a request takes. */
export function holderOf(c: Ctx): string {
  return c.get("client") || c.get("tenant") || (c.env.incoming.socket.remoteAddress ?? "");
}

/** OpenAI's headers, where the client has limits. */
export function showLimits(c: Ctx, deps: AppDeps): void {
  for (const [name, value] of Object.entries(deps.clients.headers(c.get("client")))) c.header(name, value);
}

/** With `gateway.prefixIsolation` no caller names the salt of another one. */
export function saltOf(c: Ctx, { prefixIsolation }: AppDeps, requested: string): string {
  return prefixIsolation ? JSON.stringify([c.get("tenant"), requested]) : requested;
}

export function priorityOf(c: Ctx, deps: AppDeps, requested: number | undefined): number {
  return deps.clients.priorityOf({ client: c.get("client"), priority: c.get("priority") }, requested);
}
