// The HTTP routes of the gateway: OpenAI's four paths and /healthz. Each handler is short: read, parse, admit, answer.
// Not here: listening and wiring (gateway.ts), what an answer is (answer.ts).
import { randomUUID } from "node:crypto";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { Span, Tracing } from "../observe/trace.ts";
import { type Admission, type Admitted, retryAfterSeconds } from "./admission.ts";
import { Answer, type AnswerDeps, isMarker, type Piece, prepare } from "./answer.ts";
import type { ApiKeys } from "./api-key.ts";
import { embed, embeddingsBody, encodeInputs, parseEmbeddings } from "./embeddings.ts";
import { type GenerationJob, type Parsed, parseChat, parseCompletion } from "./openai.ts";
import { ChunkWriter, type Envelope, modelBody, wholeBody } from "./openai-body.ts";
import { invalid, type Problem, problemBody, problemOf, problems, rejectReason } from "./problem.ts";
import { sseBody, sseComment, sseData, sseHeaders } from "./sse.ts";

const bodyBytesMax = 8 * 1024 * 1024;
const requestIdPattern = /^[\w.:-]{1,128}$/;
const clientGone = 499;

export interface AppDeps extends AnswerDeps {
  readonly servedName: string;
  /** Unix seconds, of the model list. */
  readonly created: number;
  readonly admission: Admission;
  readonly apiKeys: ApiKeys | undefined;
  readonly tracing: Tracing;
  /** The reason why no request can be taken now; undefined = some worker is or was ready a moment ago. */
  readonly unavailable: () => string | undefined;
}

type Endpoint = "chat" | "completions" | "embeddings" | "models" | "other";
type Env = { Variables: { requestId: string; endpoint: Endpoint; startedAt: number; counted: boolean } };
type Ctx = Context<Env>;

export function createApp(deps: AppDeps): Hono<Env> {
  const app = new Hono<Env>();
  app.get("/healthz", (c) => c.text("ok\n"));
  app.use(async (c, next) => {
    const given = c.req.header("x-request-id") ?? "";
    c.set("requestId", requestIdPattern.test(given) ? given : randomUUID());
    c.set("endpoint", "other");
    c.set("startedAt", deps.now());
    c.header("x-request-id", c.get("requestId"));
    await next();
    if (!c.get("counted")) count(c, deps, c.res.status);
  });
  app.use("/v1/*", async (c, next) => {
    if (deps.apiKeys && !(await deps.apiKeys.allows(c.req.header("authorization")))) return refuse(c, deps, problems.unauthorized());
    return next();
  });
  app.use("/v1/*", bodyLimit({ maxSize: bodyBytesMax, onError: (c) => refuse(c as Ctx, deps, problems.tooLarge(bodyBytesMax)) }));
  app.get("/v1/models", (c) => listModels(c, deps));
  app.get("/v1/models/:model{.+}", (c) => oneModel(c, deps));
  app.post("/v1/chat/completions", (c) => generation(c, deps, "chat", parseChat));
  app.post("/v1/completions", (c) => generation(c, deps, "completions", parseCompletion));
  app.post("/v1/embeddings", (c) => embeddings(c, deps));
  for (const path of ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
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

function listModels(c: Ctx, deps: AppDeps): Response {
  c.set("endpoint", "models");
  return c.json({ object: "list", data: [modelBody(deps.servedName, deps.created, deps.maxContext)] });
}

function oneModel(c: Ctx, deps: AppDeps): Response {
  c.set("endpoint", "models");
  const asked = c.req.param("model") ?? "";
  if (asked !== deps.servedName) return refuse(c, deps, problems.unknownModel(asked, deps.servedName));
  return c.json(modelBody(deps.servedName, deps.created, deps.maxContext));
}

async function generation(
  c: Ctx,
  deps: AppDeps,
  endpoint: "chat" | "completions",
  parse: (body: unknown, served: string) => Parsed,
): Promise<Response> {
  c.set("endpoint", endpoint);
  const body = await readJson(c);
  if ("problem" in body) return refuse(c, deps, body.problem);
  const parsed = parse(body.json, deps.servedName);
  if ("problem" in parsed) return refuse(c, deps, parsed.problem);
  const prepared = await prepare(parsed.job, deps, c.req.raw.signal);
  if ("problem" in prepared) return refuse(c, deps, prepared.problem);
  const unavailable = deps.unavailable();
  if (unavailable !== undefined) return refuse(c, deps, problems.noWorker(unavailable, retryAfterSeconds));
  const admitted = deps.admission.enter();
  if (admitted === undefined) return refuse(c, deps, problems.queueFull(retryAfterSeconds));
  return new Exchange(c, deps, { job: parsed.job, prepared, admitted }).run();
}

async function embeddings(c: Ctx, deps: AppDeps): Promise<Response> {
  c.set("endpoint", "embeddings");
  const body = await readJson(c);
  if ("problem" in body) return refuse(c, deps, body.problem);
  const parsed = parseEmbeddings(body.json, deps.servedName);
  if ("problem" in parsed) return refuse(c, deps, parsed.problem);
  const { signal } = c.req.raw;
  const encoded = await encodeInputs(parsed.job, deps, signal);
  if ("problem" in encoded) return refuse(c, deps, encoded.problem);
  const unavailable = deps.unavailable();
  if (unavailable !== undefined) return refuse(c, deps, problems.noWorker(unavailable, retryAfterSeconds));
  const admitted = deps.admission.enter();
  if (admitted === undefined) return refuse(c, deps, problems.queueFull(retryAfterSeconds));
  const id = c.get("requestId");
  const attributes = { "enodia.request_id": id, "enodia.inputs": encoded.prompts.length };
  const span = deps.tracing.start("gateway.embeddings", { parent: c.req.header("traceparent"), role: "server", attributes });
  try {
    const request = { id, ...parsed, ...encoded, traceparent: span.traceparent, signal, onStarted: admitted.started };
    const found = await embed(request, deps);
    const { traceId } = span;
    deps.log.info({ requestId: id, traceId, inputs: found.vectors.length, promptTokens: found.promptTokens }, "request ended");
    c.header("x-enodia-failovers", String(found.failovers));
    return c.json(embeddingsBody(deps.servedName, found, parsed.job.encoding));
  } catch (caught) {
    span.fail(caught);
    return embeddingsFailed(c, deps, caught);
  } finally {
    admitted.leave();
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

async function readJson(c: Ctx): Promise<{ json: unknown } | { problem: Problem }> {
  const bytes = await c.req.arrayBuffer();
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return { problem: invalid("The body is not UTF-8.", null, "invalid_json") };
  }
  try {
    return { json: JSON.parse(text) };
  } catch (caught) {
    const why = caught instanceof Error ? caught.message.slice(0, 200) : "";
    return { problem: invalid(`The body is not JSON: ${why}.`, null, "invalid_json") };
  }
}

/** The checked job of one request, with its place among those that are computed. */
interface Task {
  readonly job: GenerationJob;
  readonly prepared: { readonly prompt: readonly number[]; readonly maxTokens: number };
  readonly admitted: Admitted;
}

/** One admitted request from its first token to the accounting after its last byte. */
class Exchange {
  readonly #c: Ctx;
  readonly #deps: AppDeps;
  readonly #job: GenerationJob;
  readonly #admitted: Admitted;
  readonly #envelope: Envelope;
  readonly #answer: Answer;
  readonly #span: Span;
  readonly #abort = new AbortController();
  #ended = false;

  constructor(c: Ctx, deps: AppDeps, { job, prepared, admitted }: Task) {
    this.#c = c;
    this.#deps = deps;
    this.#job = job;
    this.#admitted = admitted;
    const { endpoint, logprobs } = job;
    const prefix = endpoint === "chat" ? "chatcmpl" : "cmpl";
    this.#envelope = {
      endpoint,
      id: `${prefix}-${randomUUID().replaceAll("-", "")}`,
      created: Math.floor(deps.now() / 1000),
      model: deps.servedName,
      logprobs,
    };
    const attributes = { "enodia.request_id": c.get("requestId"), "enodia.prompt_tokens": prepared.prompt.length };
    this.#span = deps.tracing.start(`gateway.${endpoint}`, { parent: c.req.header("traceparent"), role: "server", attributes });
    const client = c.req.raw.signal;
    client.addEventListener("abort", () => this.#abort.abort(), { once: true });
    if (client.aborted) this.#abort.abort();
    const request = { id: c.get("requestId"), job, ...prepared, span: this.#span, signal: this.#abort.signal };
    this.#answer = new Answer(request, deps);
  }

  /** Waits until a worker computes the request, so that a refusal is still a status and not a broken stream. */
  async run(): Promise<Response> {
    const pieces = this.#answer.pieces();
    try {
      const first = await pieces.next();
      this.#admitted.started();
      if (!first.done && this.#job.stream) return this.#stream(first.value, pieces);
      const all: Piece[] = first.done ? [] : [first.value];
      for await (const piece of pieces) all.push(piece);
      this.#end(200);
      this.#c.header("x-enodia-failovers", String(this.#answer.failovers));
      return this.#c.json(wholeBody(this.#envelope, all, this.#answer.usage));
    } catch (caught) {
      const problem = this.#failed(caught);
      return problemResponse(this.#c, problem);
    }
  }

  #stream(first: Piece, pieces: AsyncGenerator<Piece, void, void>): Response {
    this.#c.set("counted", true);
    const gone = () => {
      this.#abort.abort();
      this.#end(clientGone);
    };
    const body = sseBody(this.#events(first, pieces), gone, { lifetimeMs: this.#deps.requestTimeoutMs });
    return this.#c.body(body, 200, sseHeaders);
  }

  async *#events(first: Piece, pieces: AsyncGenerator<Piece, void, void>): AsyncGenerator<string, void, void> {
    const chunks = new ChunkWriter(this.#envelope, this.#job.includeUsage);
    try {
      const head = chunks.first();
      if (head) yield sseData(head);
      if (!isMarker(first)) yield sseData(chunks.piece(first));
      for await (const piece of pieces) {
        if (!isMarker(piece)) yield sseData(chunks.piece(piece));
      }
      const usage = chunks.usage(this.#answer.usage);
      if (usage) yield sseData(usage);
      if (this.#answer.failovers > 0) yield sseComment(`failovers=${this.#answer.failovers}`);
      this.#end(200);
      yield sseData("[DONE]");
    } catch (caught) {
      yield sseData(problemBody(this.#failed(caught)));
    }
  }

  #failed(caught: unknown): Problem {
    const { log, metrics } = this.#deps;
    const requestId = this.#c.get("requestId");
    const { traceId } = this.#span;
    const problem = problemOf(caught, requestId);
    if (this.#abort.signal.aborted) {
      this.#end(clientGone);
      return problem;
    }
    this.#span.fail(caught);
    metrics.add("enodia_gateway_failed_total", 1);
    const { outputTokens: tokens, failovers } = this.#answer;
    log.error({ err: caught, requestId, traceId, tokens, failovers }, "request failed");
    this.#end(problem.status);
    return problem;
  }

  #end(code: number): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#admitted.leave();
    const { outputTokens, failovers } = this.#answer;
    this.#span.set({ "enodia.output_tokens": outputTokens, "enodia.failovers": failovers, "http.response.status_code": code });
    this.#span.end();
    if (code === clientGone) this.#deps.metrics.add("enodia_gateway_cancelled_total", 1);
    count(this.#c, this.#deps, code, this.#span.traceparent);
    const fields = {
      requestId: this.#c.get("requestId"),
      traceId: this.#span.traceId,
      code,
      ...this.#answer.usage,
      failovers,
      ms: this.#deps.now() - this.#c.get("startedAt"),
    };
    this.#deps.log.info(fields, "request ended");
  }
}

/** `trace` is the request's, where it has got as far as to have one. */
function count(c: Ctx, deps: AppDeps, code: number, trace = ""): void {
  c.set("counted", true);
  const endpoint = c.get("endpoint");
  deps.metrics.add("enodia_gateway_requests_total", 1, { endpoint, code: String(code) });
  const seconds = (deps.now() - c.get("startedAt")) / 1000;
  deps.metrics.observeTraced(trace, "enodia_gateway_request_duration_seconds", seconds, { endpoint });
}

/** Answers a request that is refused before any work. */
function refuse(c: Ctx, deps: AppDeps, problem: Problem): Response {
  deps.metrics.add("enodia_gateway_rejected_total", 1, { reason: rejectReason(problem) });
  return problemResponse(c, problem);
}

function problemResponse(c: Ctx, problem: Problem): Response {
  if (problem.retryAfterSeconds !== undefined) c.header("retry-after", String(problem.retryAfterSeconds));
  if (problem.status === 401) c.header("www-authenticate", "Bearer");
  return c.json(problemBody(problem), problem.status);
}
