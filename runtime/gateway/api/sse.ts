// Server-sent events with back-pressure from the client, and keep-alive comments that keep proxies' connections and detect dead clients.

const keepAliveMs = 10_000;

const encoder = new TextEncoder();

export function sseData(value: object | string): string {
  return `data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`;
}

export function sseComment(text: string): string {
  return `: ${text.replaceAll("\n", " ")}\n\n`;
}

export const sseHeaders = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache, no-transform",
  "x-accel-buffering": "no",
} as const;

export interface SseOptions {
  readonly keepAliveMs?: number;
  /** A client that has not read everything by then is cut off. */
  readonly lifetimeMs: number;
}

/** `source` must not throw. `onGone` runs when the client leaves or is cut off. */
export function sseBody(source: AsyncGenerator<string, void, void>, onGone: () => void, options: SseOptions): ReadableStream<Uint8Array> {
  const everyMs = options.keepAliveMs ?? keepAliveMs;
  let pending: Promise<IteratorResult<string, void>> | undefined;
  let lifetime: NodeJS.Timeout | undefined;
  const gone = async () => {
    clearTimeout(lifetime);
    onGone();
    await source.return();
  };
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        lifetime = setTimeout(() => {
          controller.error(new Error("the client did not read its answer in time"));
          gone().then(nothing, nothing);
        }, options.lifetimeMs);
      },
      async pull(controller) {
        pending ??= source.next();
        const result = await orAfter(pending, everyMs);
        if (result === undefined) return controller.enqueue(encoder.encode(sseComment("keep-alive")));
        pending = undefined;
        if (!result.done) return controller.enqueue(encoder.encode(result.value));
        clearTimeout(lifetime);
        controller.close();
      },
      cancel: gone,
    },
    { highWaterMark: 0 },
  );
}

function nothing(): void {}

async function orAfter<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  const { promise: timeout, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => resolve(undefined), ms);
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
