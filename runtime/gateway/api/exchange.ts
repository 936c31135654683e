// One admitted HTTP request, from its first token to the accounting after its last byte.
import type { Span } from "../../observe/trace.ts";
import { type Problem, problemOf } from "../problem.ts";
import type { Keep } from "../routing/keep.ts";
import type { Piece, Prepared } from "./answer.ts";
import type { AnswerWriter } from "./choices.ts";
import { type ChoicePiece, Choices } from "./choices.ts";
import type { GenerationRequest } from "./generation-request.ts";
import { type AppDeps, type Ctx, clientGone, count, type Place, problemResponse } from "./http-context.ts";
import { computationOf } from "./resume.ts";
import { sseBody, sseComment, sseHeaders } from "./sse.ts";
import { untilOver } from "./unread.ts";

interface Task {
  readonly job: GenerationRequest;
  readonly prompts: readonly Prepared[];
  readonly writer: AnswerWriter;
  readonly place: Place;
  readonly token: string;
  readonly keep: Keep | undefined;
  readonly home: number | undefined;
}

type First = IteratorResult<ChoicePiece, void> | Promise<IteratorResult<ChoicePiece, void>>;

/** Proxies end a connection after 30 to 60 seconds without a byte. */
const silenceMsMax = 5_000;

export class Exchange {
  readonly #c: Ctx;
  readonly #deps: AppDeps;
  readonly #job: GenerationRequest;
  readonly #place: Place;
  readonly #writer: AnswerWriter;
  readonly #choices: Choices;
  readonly #keep: Keep | undefined;
  readonly #span: Span;
  readonly #abort = new AbortController();
  #ended = false;

  constructor(c: Ctx, deps: AppDeps, { job, prompts, writer, place, token, keep, home }: Task) {
    this.#c = c;
    this.#deps = deps;
    this.#job = job;
    this.#place = place;
    this.#keep = keep;
    this.#writer = writer;
    const tokens = prompts.reduce((sum, { prompt }) => sum + prompt.length, 0);
    const attributes = { "enodia.request_id": c.get("requestId"), "enodia.prompt_tokens": tokens };
    this.#span = deps.tracing.start(`gateway.${job.endpoint}`, { parent: c.req.header("traceparent"), role: "server", attributes });
    const client = c.req.raw.signal;
    client.addEventListener("abort", () => this.#abort.abort(), { once: true });
    if (client.aborted) this.#abort.abort();
    const request = { id: c.get("requestId"), token, keep, home, job, prompts, span: this.#span, signal: this.#abort.signal };
    this.#choices = new Choices(request, deps);
  }

  /**
   * Waits until a worker computes the request, so that a refusal still has a status. A held request streams earlier, since its client may
   * take silence for a lost connection.
   */
  async run(): Promise<Response> {
    const pieces = this.#choices.pieces();
    try {
      const coming = pieces.next();
      if (this.#job.stream && this.#deps.holds() && (await isLate(coming, silenceMsMax))) {
        coming.catch(nothing); // a client that leaves before the first byte does not await it
        return this.#stream(coming, pieces);
      }
      const first = await coming;
      this.#place.admitted.started();
      if (!first.done && this.#job.stream) return this.#stream(first, pieces);
      const all = Array.from({ length: this.#choices.count }, (): Piece[] => []);
      if (!first.done) all[first.value.index]?.push(first.value.piece);
      for await (const { index, piece } of pieces) all[index]?.push(piece);
      this.#end(200);
      this.#c.header("x-enodia-failovers", String(this.#choices.failovers));
      return this.#c.json(this.#writer.whole(all, this.#choices.usage));
    } catch (caught) {
      const problem = this.#failed(caught);
      return problemResponse(this.#c, problem);
    }
  }

  #stream(first: First, pieces: AsyncGenerator<ChoicePiece, void, void>): Response {
    this.#c.set("counted", true);
    const gone = () => {
      this.#abort.abort();
      this.#end(clientGone);
    };
    const body = sseBody(this.#events(first, pieces), gone, { lifetimeMs: this.#deps.requestTimeoutMs });
    return this.#c.body(body, 200, sseHeaders);
  }

  async *#events(coming: First, pieces: AsyncGenerator<ChoicePiece, void, void>): AsyncGenerator<string, void, void> {
    const writer = this.#writer;
    try {
      if (coming instanceof Promise) yield sseComment("waits for a rank to come");
      const first = await coming;
      this.#place.admitted.started();
      if (!first.done) yield* writer.events(first.value, this.#choices.usage);
      for await (const one of pieces) yield* writer.events(one, this.#choices.usage);
      if (this.#choices.failovers > 0) yield sseComment(`failovers=${this.#choices.failovers}`);
      this.#end(200);
      yield* writer.last(this.#choices.usage);
    } catch (caught) {
      yield* writer.failed(this.#failed(caught));
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
    const { usage, failovers } = this.#choices;
    log.error({ err: caught, requestId, answerId: this.#writer.id, traceId, tokens: usage.outputTokens, failovers }, "request failed");
    this.#end(problem.status);
    return problem;
  }

  #end(code: number): void {
    if (this.#ended) return;
    this.#ended = true;
    const { usage, failovers } = this.#choices;
    this.#place.admitted.leave();
    const { client } = this.#place;
    if (code === clientGone && this.#keep?.stays)
      client.stay(computationOf(this.#keep), usage.outputTokens, (signal) => untilOver(this.#choices.keepIds, this.#deps.workers, signal));
    else client.leave(usage.outputTokens);
    this.#span.set({ "enodia.output_tokens": usage.outputTokens, "enodia.failovers": failovers, "http.response.status_code": code });
    this.#span.end();
    if (code === clientGone) this.#deps.metrics.add("enodia_gateway_cancelled_total", 1);
    count(this.#c, this.#deps, code, this.#span.traceparent);
    const fields = {
      requestId: this.#c.get("requestId"),
      answerId: this.#writer.id,
      traceId: this.#span.traceId,
      client: this.#c.get("client"),
      code,
      ...usage,
      failovers,
      ms: this.#deps.now() - this.#c.get("startedAt"),
    };
    this.#deps.log.info(fields, "request ended");
  }
}

async function isLate(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(true), ms);
  try {
    const settled = () => false; // the caller handles its failure
    return await Promise.race([promise.then(settled, settled), late]);
  } finally {
    clearTimeout(timer);
  }
}

function nothing(): void {}
