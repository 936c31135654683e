// A client of the OpenAI chat API that streams one answer, for `enodia chat` and tests.
import { setTimeout as pause } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";

/** Three missed keep-alive comments mean a dead connection. */
const silenceMs = 30_000;
const errorBytesMax = 64 * 1024;
/** Retries of a refused connection, since `kubectl port-forward &` listens a moment later. */
const refusedMsMax = 5000;
const refusedPauseMs = 200;

export interface ChatTurn {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

export interface ChatOptions {
  /** The path may end with /v1. */
  readonly url: string;
  readonly apiKey?: string | undefined;
  /** Called once, before retries. */
  readonly onRefused?: ((message: string) => void) | undefined;
}

export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly ChatTurn[];
  readonly temperature?: number | undefined;
  readonly top_p?: number | undefined;
  readonly seed?: number | undefined;
  readonly max_tokens?: number | undefined;
  readonly reasoning_effort?: string | undefined;
}

export type ChatEvent =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "thought"; readonly text: string }
  | { readonly type: "end"; readonly reason: string; readonly outputTokens: number | undefined };

export async function firstModel(options: ChatOptions, signal: AbortSignal): Promise<string> {
  const response = await call(options, "models", { method: "GET", signal: AbortSignal.any([signal, AbortSignal.timeout(silenceMs)]) });
  const body = (await response.json().catch(() => undefined)) as { data?: { id?: unknown }[] } | undefined;
  const id = body?.data?.[0]?.id;
  if (typeof id !== "string")
    throw new AppError(`${options.url}: lists no model; is this an OpenAI endpoint? Else name one with --model.`, { code: "NoModel" });
  return id;
}

/** Ends with an `end` event; throws AppError with the server's message, or `Cancelled`. */
export async function* streamChat(options: ChatOptions, request: ChatRequest, signal: AbortSignal): AsyncGenerator<ChatEvent, void, void> {
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(), silenceMs);
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  try {
    const both = AbortSignal.any([signal, silence.signal]);
    const response = await call(options, "chat/completions", {
      method: "POST",
      body,
      signal: both,
      headers: { "content-type": "application/json" },
    });
    if (response.body === null) throw new AppError("The server sent no body.", { code: "BadAnswer" });
    yield* readEvents(response.body, () => timer.refresh());
  } catch (caught) {
    if (signal.aborted) throw new AppError("cancelled", { code: "Cancelled" });
    if (silence.signal.aborted)
      throw new AppError(`${options.url}: nothing came for ${silenceMs / 1000} s.`, { code: "Silent", cause: caught });
    throw AppError.from(caught, "reading the answer");
  } finally {
    clearTimeout(timer);
  }
}

async function* readEvents(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<ChatEvent, void, void> {
  let reason: string | undefined;
  let outputTokens: number | undefined;
  for await (const data of sseData(body, alive)) {
    if (data === "[DONE]") {
      if (reason === undefined) break;
      yield { type: "end", reason, outputTokens };
      return;
    }
    const event = JSON.parse(data);
    if (event.error)
      throw new AppError(String(event.error.message ?? "The server failed."), { code: String(event.error.code ?? "ServerError") });
    const choice = event.choices?.[0];
    if (choice?.delta?.reasoning_content) yield { type: "thought", text: choice.delta.reasoning_content };
    if (choice?.delta?.content) yield { type: "text", text: choice.delta.content };
    reason = choice?.finish_reason ?? reason;
    outputTokens = event.usage?.completion_tokens ?? outputTokens;
  }
  throw new AppError("The connection closed before the answer ended.", { code: "BadAnswer" });
}

async function* sseData(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    alive();
    rest += decoder.decode(bytes, { stream: true });
    const blocks = rest.split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) if (block.startsWith("data: ")) yield block.slice("data: ".length);
  }
}

async function call(options: ChatOptions, path: string, init: RequestInit): Promise<Response> {
  const base = options.url.replace(/\/+$/, "").replace(/\/v1$/, "");
  const headers = { ...init.headers, ...(options.apiKey ? { authorization: `Bearer ${options.apiKey}` } : {}) };
  const response = await reach(base, () => fetch(`${base}/v1/${path}`, { ...init, headers }), options, init.signal);
  if (response.ok) return response;
  throw new AppError(`${base}: ${response.status}: ${await errorText(response)}`, { code: `Http${response.status}` });
}

/** A refused connection carried no request, so that it may be repeated. */
async function reach(
  base: string,
  request: () => Promise<Response>,
  { onRefused }: ChatOptions,
  signal: AbortSignal | null | undefined,
): Promise<Response> {
  const deadline = performance.now() + refusedMsMax;
  for (let reported = false; ; reported = true) {
    try {
      return await request();
    } catch (cause) {
      if (signal?.aborted || !refused(cause) || performance.now() >= deadline) throw unreachable(base, cause);
      if (!reported) onRefused?.(`${base} refuses the connection: trying for ${refusedMsMax / 1000} s`);
    }
    await pause(refusedPauseMs, undefined, signal ? { signal } : {});
  }
}

/** fetch hides the socket's error in `cause`. */
function refused(caught: unknown): boolean {
  const cause = caught instanceof Error ? caught.cause : undefined;
  return cause instanceof Error && "code" in cause && cause.code === "ECONNREFUSED";
}

function unreachable(base: string, cause: unknown): AppError {
  const why =
    cause instanceof Error ? (cause.cause instanceof Error ? cause.cause.message || cause.message : cause.message) : String(cause);
  return new AppError(`${base}: cannot be reached (${why}). Is --url right, and the Service forwarded?`, { code: "Unreachable", cause });
}

async function errorText(response: Response): Promise<string> {
  const text = (await response.text().catch(() => "")).slice(0, errorBytesMax);
  try {
    const message = JSON.parse(text)?.error?.message;
    if (typeof message === "string") return message;
  } catch {
    // not from an OpenAI endpoint: show the beginning of the body
  }
  return text.trim().slice(0, 300) || response.statusText;
}
