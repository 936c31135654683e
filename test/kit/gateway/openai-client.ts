// A small OpenAI client over fetch: one streamed or whole answer, with what a test wants to know about it.
import { performance } from "node:perf_hooks";

export interface Ask {
  readonly url: string;
  readonly model: string;
  readonly prompt: string;
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly seed?: number;
  readonly apiKey?: string;
  /** cache_salt: nothing is reused that was computed with another one. */
  readonly salt?: string;
  /** Idempotency-Key. */
  readonly key?: string;
  /** chat: the prompt is one user message; text: raw completion. */
  readonly api?: "chat" | "text";
  readonly onToken?: (text: string, count: number) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface Answer {
  readonly text: string;
  readonly chunks: number;
  readonly finish: string | undefined;
  readonly firstTokenMs: number;
  readonly totalMs: number;
  readonly gapsMs: readonly number[];
  readonly usage: { prompt_tokens: number; completion_tokens: number } | undefined;
  readonly headers: Headers;
}

class ApiError extends Error {
  readonly status: number;
  readonly body: string;

  constructor(status: number, body: string) {
    super(`HTTP ${status}: ${body.slice(0, 400)}`);
    this.status = status;
    this.body = body;
  }
}

function requestBody(ask: Ask): object {
  const common = {
    model: ask.model,
    max_tokens: ask.maxTokens ?? 64,
    temperature: ask.temperature ?? 0,
    stream: true,
    stream_options: { include_usage: true },
    ...(ask.seed === undefined ? {} : { seed: ask.seed }),
    ...(ask.salt === undefined ? {} : { cache_salt: ask.salt }),
  };
  return ask.api === "text" ? { ...common, prompt: ask.prompt } : { ...common, messages: [{ role: "user", content: ask.prompt }] };
}

/** Asks and reads the stream to its end. Throws ApiError for a refusal and for a stream that ends without [DONE], TypeError where the connection breaks. */
export async function ask(options: Ask): Promise<Answer> {
  const started = performance.now();
  const response = await fetch(`${options.url}/v1/${options.api === "text" ? "completions" : "chat/completions"}`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      ...(options.apiKey ? { authorization: `Bearer ${options.apiKey}` } : {}),
      ...(options.key ? { "idempotency-key": options.key } : {}),
    },
    body: JSON.stringify(requestBody(options)),
    ...(options.signal ? { signal: options.signal } : {}),
  });
  if (!response.ok || !response.body) throw new ApiError(response.status, await response.text());
  let text = "";
  let chunks = 0;
  let finish: string | undefined;
  let usage: Answer["usage"];
  let done = false;
  let previous = started;
  let first = 0;
  const gaps: number[] = [];
  for await (const data of sseData(response.body)) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const event = JSON.parse(data) as any;
    if (event.error) throw new ApiError(200, JSON.stringify(event.error));
    usage = event.usage ?? usage;
    const choice = event.choices?.[0];
    if (!choice) continue;
    finish = choice.finish_reason ?? finish;
    const piece: string = choice.delta?.content ?? choice.text ?? "";
    if (piece === "") continue;
    const now = performance.now();
    if (chunks === 0) first = now - started;
    else gaps.push(now - previous);
    previous = now;
    chunks += 1;
    text += piece;
    options.onToken?.(piece, chunks);
  }
  if (!done) throw new ApiError(200, `stream ended after ${chunks} chunks without [DONE]`);
  return {
    text,
    chunks,
    finish,
    firstTokenMs: first,
    totalMs: performance.now() - started,
    gapsMs: gaps,
    usage,
    headers: response.headers,
  };
}

async function* sseData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
  }
}
