// HTTP routes of the gateway: OpenAI's paths and /healthz.
import { randomUUID } from "node:crypto";
import { Hono } from "hono";
import { cors } from "hono/cors";
import { escapedLabel, metricsContentType } from "../../observe/runtime-metrics.ts";
import { limitHeaders } from "../auth/client-limits.ts";
import { invalid, type Problem, problemOf, problems } from "../problem.ts";
import { retryAfterSeconds } from "../routing/admission.ts";
import type { Kept } from "../routing/keep.ts";
import { type Prepared, prepare } from "./answer.ts";
import { type EmbeddingJob, embed, embeddingsBody, encodeInputs, parseEmbeddings } from "./embeddings.ts";
import { Exchange } from "./exchange.ts";
import {
  type AppDeps,
  AtOnce,
  type Ctx,
  clientGone,
  count,
  type Endpoint,
  type Env,
  enter,
  holderOf,
  type Place,
  type PoolLoad,
  priorityOf,
  problemResponse,
  refuse,
  saltOf,
  showLimits,
} from "./http-context.ts";
import { parseChat, parseCompletion } from "./openai.ts";
import { modelBody } from "./openai-body.ts";
import type { Parsed } from "./request-fields.ts";
import { parseResponses } from "./responses.ts";
import {
  computationOf,
  keptId,
  keyProblem,
  newToken,
  type Resumption,
  readNote,
  resumption,
  type Ticket,
  ticketOf,
  ticketOfResponse,
} from "./resume.ts";
import { detokenize, tokenize } from "./tokenize.ts";

/** As vLLM has them. */
const tokenPaths = ["/tokenize", "/detokenize"];
/** Browsers cache a preflight this long. */
const corsMaxAgeSeconds = 600;
/** Calls of /tokenize and /detokenize at once: the prompts of generations wait at the same thread, which takes 256 texts. */
const tokenCallsMax = 32;
/** Responses that are looked for at the ranks and made ready at once, of up to 256 Ki characters each. */
const lookupsMax = 32;
const requestIdPattern = /^[\w.:-]{1,128}$/;

export function createApp(deps: AppDeps): Hono<Env> {
  const app = new Hono<Env>();
  const [tokenCalls, lookups] = [new AtOnce(tokenCallsMax), new AtOnce(lookupsMax)];
  app.get("/healthz", (c) => c.text("ok\n"));
  // vLLM and SageMaker ask whether requests are answered, and not only whether this process lives.
  for (const path of ["/health", "/ping"])
    app.on(["GET", "POST"], path, (c) => c.body(null, deps.holds() || deps.unavailable() === undefined ? 200 : 503));
  app.get("/version", (c) => c.json({ version: deps.version }));
  app.get("/metrics", (c) => c.body(poolMetrics(deps.load()), 200, { "content-type": metricsContentType }));
  app.use(async (c, next) => {
    const given = c.req.header("x-request-id") ?? "";
    c.set("requestId", requestIdPattern.test(given) ? given : randomUUID());
    c.set("endpoint", "other");
    c.set("startedAt", deps.now());
    c.header("x-request-id", c.get("requestId"));
    await next();
    if (!c.get("counted")) count(c, deps, c.res.status);
  });
  if (deps.corsOrigins.length > 0) app.use("/v1/*", crossOrigin(deps.corsOrigins)); // before keys: preflight requests have none
  for (const path of ["/v1/*", ...tokenPaths])
    app.use(path, async (c, next) => {
      const caller = await deps.authenticator.caller(c.req.header("authorization"));
      if ("problem" in caller) return refuse(c, deps, caller.problem);
      c.set("client", caller.client);
      c.set("tenant", caller.tenant);
      c.set("priority", caller.priority);
      const costs = c.req.method === "POST" || c.req.path.startsWith("/v1/responses/");
      const refusal = costs ? deps.clients.refusal(caller.client) : undefined; // before a body is read or a rank asked
      if (refusal === undefined) return next();
      showLimits(c, deps);
      return refuse(c, deps, refusal);
    });
  app.get("/v1/models", (c) => listModels(c, deps));
  app.get("/v1/models/:model{.+}", (c) => oneModel(c, deps));
  app.post("/v1/chat/completions", (c) => generation(c, deps, "chat", parseChat));
  app.post("/v1/completions", (c) => generation(c, deps, "completions", parseCompletion));
  app.post("/v1/responses", (c) => generation(c, deps, "responses", parseResponses));
  app.get("/v1/responses/:id", (c) => resumedResponse(c, deps, lookups));
  app.post("/v1/embeddings", (c) => embeddings(c, deps));
  app.post("/tokenize", (c) => answered(c, deps, tokenize, tokenCalls));
  app.post("/detokenize", (c) => answered(c, deps, detokenize, tokenCalls));
  for (const path of ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", ...tokenPaths])
    app.all(path, (c) => refuse(c, deps, problems.method("POST")));
  app.all("/v1/models", (c) => refuse(c, deps, problems.method("GET")));
  app.notFound((c) => refuse(c, deps, problems.notFound(c.req.path)));
  app.onError((err, c) => {
    if (c.req.raw.signal.aborted) {
      deps.log.debug({ err, requestId: c.get("requestId") }, "the client went away before its request was read");
      count(c, deps, clientGone);
      return c.body(null);
    }
    deps.log.error({ err, requestId: c.get("requestId") }, "request failed");
    return problemResponse(c, problems.internal(c.get("requestId")));
  });
  return app;
}

/** Allows any request header, since browser clients send their own. */
function crossOrigin(origins: readonly string[]) {
  const origin = origins.includes("*") ? "*" : [...origins];
  const exposeHeaders = ["x-request-id", "x-enodia-failovers", "retry-after", ...limitHeaders];
  return cors({ origin, allowMethods: ["GET", "POST"], exposeHeaders, maxAge: corsMaxAgeSeconds });
}

function listModels(c: Ctx, deps: AppDeps): Response {
  c.set("endpoint", "models");
  return c.json({ object: "list", data: [modelBody(deps.servedName, deps.created, deps.maxContext)] });
}

function oneModel(c: Ctx, deps: AppDeps): Response {
  c.set("endpoint", "models");
  const model = c.req.param("model") ?? "";
  if (model !== deps.servedName) return refuse(c, deps, problems.unknownModel(model, deps.servedName));
  return c.json(modelBody(deps.servedName, deps.created, deps.maxContext));
}

type Parse = (body: unknown, served: string) => Parsed;

async function generation(c: Ctx, deps: AppDeps, endpoint: Endpoint, parse: Parse): Promise<Response> {
  const entered = await withBody(c, deps, endpoint, (body) => enterGeneration(c, deps, parse, body));
  return entered instanceof Response ? entered : entered.run();
}

async function enterGeneration(c: Ctx, deps: AppDeps, parse: Parse, body: JsonBody): Promise<Response | Exchange> {
  const parsed = parse(body.json, deps.servedName);
  if ("problem" in parsed) return refuse(c, deps, parsed.problem);
  const key = c.req.header("idempotency-key");
  const problem = keyProblem(key);
  if (problem) return refuse(c, deps, problem);
  const { endpoint, stream } = parsed.job;
  const start = { created: Math.floor(deps.now() / 1000), seed: deps.drawSeed() };
  const ticket = ticketOf({ tenant: c.get("tenant"), endpoint, key, stream, json: body.json, ...start });
  return enterParsed(c, deps, { parsed, bytes: body.bytes, ticket, created: start.created });
}

/** A streamed response that another gateway may have begun. */
async function resumedResponse(c: Ctx, deps: AppDeps, lookups: AtOnce): Promise<Response> {
  c.set("endpoint", "responses");
  const id = c.req.param("id") ?? "";
  const asked = resumption(id, c.req.query());
  if ("problem" in asked) return refuse(c, deps, asked.problem);
  const entered = await lookups.run(c, deps, () => enterResumed(c, deps, id, asked));
  return entered instanceof Response ? entered : entered.run();
}

async function enterResumed(c: Ctx, deps: AppDeps, id: string, { token, stream, after }: Resumption): Promise<Response | Exchange> {
  const tenant = c.get("tenant");
  const kept = await deps.workers.kept?.(keptId(tenant, token));
  if (kept === undefined) return refuse(c, deps, problems.noResponse(id));
  const bytes = kept.note.length;
  const leave = deps.bodies.hold(bytes, holderOf(c));
  if (leave === undefined) return refuse(c, deps, problems.bodiesFull(retryAfterSeconds));
  try {
    const ticket = ticketOfResponse(tenant, token, kept.note);
    if (ticket === undefined) return refuse(c, deps, problems.noResponse(id));
    const parsed = parseResponses(ticket.json, deps.servedName);
    if ("problem" in parsed) return refuse(c, deps, parsed.problem);
    const resumed = { ...parsed, job: { ...parsed.job, stream } };
    return await enterParsed(c, deps, { parsed: resumed, bytes, ticket, created: ticket.note.created, kept, after });
  } finally {
    leave();
  }
}

interface Entering {
  readonly parsed: Exclude<Parsed, { readonly problem: Problem }>;
  readonly bytes: number;
  readonly ticket: Ticket | undefined;
  readonly created: number;
  /** Where it was found already. */
  readonly kept?: Kept;
  readonly after?: number;
}

async function enterParsed(c: Ctx, deps: AppDeps, entering: Entering): Promise<Response | Exchange> {
  const { parsed, bytes, ticket } = entering;
  const prepared = await prepare(parsed.job, deps, c.req.raw.signal);
  if ("problem" in prepared) return refuse(c, deps, prepared.problem);
  const { prompts, promptLogprobs } = prepared;
  const promptTokens = prompts.reduce((sum, { prompt }) => sum + prompt.length, 0);
  const place = enter(c, deps, { bytes, promptTokens, promptLogprobs, id: ticket && computationOf(ticket.keep) });
  if ("problem" in place) return refuse(c, deps, place.problem);
  try {
    return exchangeOf(c, deps, { ...entering, ...(await begun(deps, entering)), prompts, place });
  } catch (caught) {
    leavePlace(place);
    throw caught;
  }
}

/** The rank that keeps a repeated answer, and when the first one began. */
async function begun(deps: AppDeps, { ticket, kept, created }: Entering): Promise<{ home: number | undefined; created: number }> {
  if (kept !== undefined || ticket?.keep.isNew !== false) return { home: kept?.rank, created };
  const found = await deps.workers.kept?.(ticket.keep.id);
  return { home: found?.rank, created: (found && readNote(found.note)?.created) ?? created };
}

type Begun = Entering & { readonly prompts: readonly Prepared[]; readonly place: Place; readonly home: number | undefined };

function exchangeOf(c: Ctx, deps: AppDeps, { parsed, ticket, created, after, prompts, place, home }: Begun): Exchange {
  const { token = newToken(), keep, note } = ticket ?? {};
  const writer = parsed.writer({
    model: deps.servedName,
    created,
    token,
    fingerprint: deps.fingerprint(),
    ...(after === undefined ? {} : { after }),
  });
  const { sampling, priority, cacheSalt: salt } = parsed.job;
  const seed = sampling.seed ?? (note && BigInt(note.seed));
  const caller = { priority: priorityOf(c, deps, priority), cacheSalt: saltOf(c, deps, salt) };
  const job = { ...parsed.job, ...caller, sampling: { ...sampling, seed } };
  return new Exchange(c, deps, { job, prompts, writer, place, token, keep: keep && { ...keep, isNew: home === undefined }, home });
}

/** What the gateway answers by itself: a request of its client, whose tokens no rank computes. */
async function answered(c: Ctx, deps: AppDeps, answer: typeof tokenize, calls: AtOnce): Promise<Response> {
  return withBody(c, deps, "other", ({ json }) =>
    calls.run(c, deps, async () => {
      const client = deps.clients.enter(c.get("client"), 0);
      showLimits(c, deps);
      if ("problem" in client) return refuse(c, deps, client.problem);
      try {
        const found = await answer(json, deps, c.req.raw.signal);
        return "problem" in found ? refuse(c, deps, found.problem) : c.json(found.body);
      } finally {
        client.leave(0);
      }
    }),
  );
}

async function embeddings(c: Ctx, deps: AppDeps): Promise<Response> {
  const entered = await withBody(c, deps, "embeddings", (body) => enterEmbeddings(c, deps, body));
  return entered instanceof Response ? entered : entered();
}

async function enterEmbeddings(c: Ctx, deps: AppDeps, body: JsonBody): Promise<Response | (() => Promise<Response>)> {
  const parsed = parseEmbeddings(body.json, deps.servedName);
  if ("problem" in parsed) return refuse(c, deps, parsed.problem);
  const encoded = await encodeInputs(parsed.job, deps, c.req.raw.signal);
  if ("problem" in encoded) return refuse(c, deps, encoded.problem);
  const promptTokens = encoded.prompts.reduce((sum, { length }) => sum + length, 0);
  const place = enter(c, deps, { bytes: body.bytes, promptTokens, promptLogprobs: 0 });
  if ("problem" in place) return refuse(c, deps, place.problem);
  return () => runEmbeddings(c, deps, { job: parsed.job, encoded, place });
}

function leavePlace({ admitted, client }: Place): void {
  admitted.leave();
  client.leave(0);
}

interface EmbeddingsTask {
  readonly job: EmbeddingJob;
  readonly encoded: { readonly prompts: readonly (readonly number[])[] };
  readonly place: Place;
}

async function runEmbeddings(c: Ctx, deps: AppDeps, { job: asked, encoded, place }: EmbeddingsTask): Promise<Response> {
  const { signal } = c.req.raw;
  const id = c.get("requestId");
  const attributes = { "enodia.request_id": id, "enodia.inputs": encoded.prompts.length };
  const span = deps.tracing.start("gateway.embeddings", { parent: c.req.header("traceparent"), role: "server", attributes });
  try {
    const job = { ...asked, priority: priorityOf(c, deps, asked.priority), cacheSalt: saltOf(c, deps, asked.cacheSalt) };
    const request = { id, job, ...encoded, traceparent: span.traceparent, signal, onStarted: place.admitted.started };
    const found = await embed(request, deps);
    const { traceId } = span;
    deps.log.info(
      { requestId: id, traceId, client: c.get("client"), inputs: found.vectors.length, promptTokens: found.promptTokens },
      "request ended",
    );
    c.header("x-enodia-failovers", String(found.failovers));
    return c.json(embeddingsBody(deps.servedName, found, asked.encoding));
  } catch (caught) {
    span.fail(caught);
    return embeddingsFailed(c, deps, caught);
  } finally {
    leavePlace(place);
    span.end();
  }
}

function embeddingsFailed(c: Ctx, deps: AppDeps, caught: unknown): Response {
  const requestId = c.get("requestId");
  if (c.req.raw.signal.aborted) {
    deps.metrics.add("enodia_gateway_cancelled_total", 1);
    count(c, deps, clientGone);
    return c.body(null);
  }
  deps.metrics.add("enodia_gateway_failed_total", 1);
  deps.log.error({ err: caught, requestId }, "request failed");
  return problemResponse(c, problemOf(caught, requestId));
}

interface JsonBody {
  readonly json: unknown;
  readonly bytes: number;
}

/** The body counts until `enter` is done with it. */
async function withBody<T>(
  c: Ctx,
  deps: AppDeps,
  endpoint: Endpoint,
  enter: (body: JsonBody) => Promise<T | Response>,
): Promise<T | Response> {
  c.set("endpoint", endpoint);
  const read = await deps.bodies.read(c.env.incoming, holderOf(c));
  if ("gone" in read) {
    count(c, deps, clientGone);
    return c.body(null);
  }
  if ("problem" in read) return refuse(c, deps, read.problem);
  try {
    const body = parseJson(read.bytes);
    if ("problem" in body) return refuse(c, deps, body.problem);
    const known = deps.unknownFields.without(body.json, endpoint);
    if ("problem" in known) return refuse(c, deps, known.problem);
    return await enter({ ...body, ...known });
  } finally {
    read.leave();
  }
}

function parseJson(bytes: Uint8Array): JsonBody | { problem: Problem } {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return { problem: invalid("The body is not UTF-8.", null, "invalid_json") };
  }
  try {
    return { json: JSON.parse(text), bytes: bytes.byteLength };
  } catch (caught) {
    const why = caught instanceof Error ? caught.message.slice(0, 200) : "";
    return { problem: invalid(`The body is not JSON: ${why}.`, null, "invalid_json") };
  }
}

const kvHelp = "Share of the workers' attention cache that requests hold, from 0 to 1.";

/** The load as Prometheus text for an InferencePool's endpoint picker (DECISIONS.md 8); a picker would take unknown values for zero. */
export function poolMetrics({ model, waiting, running, kvUse }: PoolLoad): string {
  const gauge = (name: string, help: string, value: number | undefined): string[] =>
    value === undefined ? [] : [`# HELP ${name} ${help}`, `# TYPE ${name} gauge`, `${name}{model_name="${escapedLabel(model)}"} ${value}`];
  const lines = [
    ...gauge("vllm:num_requests_waiting", "Requests that wait for a worker, or in its queue.", waiting),
    ...gauge("vllm:num_requests_running", "Requests that a worker computes.", running),
    ...gauge("vllm:kv_cache_usage_perc", kvHelp, kvUse),
    ...gauge("vllm:gpu_cache_usage_perc", kvHelp, kvUse), // the default of pickers before version 1.1
  ];
  return `${lines.join("\n")}\n`;
}
