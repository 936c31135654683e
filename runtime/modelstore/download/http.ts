// Requests to model sources, with bounded retries from the last received byte, Retry-After, and remedies in errors.
import { AppError, socketWords } from "../../../crds/common.ts";
import { type Answer, type Ask, send, shown } from "./request.ts";

/** Consecutive tries without progress. */
const triesMax = 8;
const waitMsMin = 500;
const waitMsMax = 60_000;
/** Longest Retry-After that is obeyed. */
const retryAfterMsMax = 300_000;
const silenceMsDefault = 60_000;
/** Fewer bytes in `silenceMs` count as silence. */
const heardBytesMin = 16 * 1024;
/** Resets the count of tries. */
const progressBytes = 2 ** 20;

export interface HttpOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called before each wait. */
  readonly onWait?: (message: string) => void;
  readonly sleep?: (ms: number, signal: AbortSignal | undefined) => Promise<void>;
  readonly random?: () => number;
  readonly silenceMs?: number;
}

export interface Range {
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
  /** Size of the whole file. */
  readonly of: number;
  readonly etag?: string | undefined;
}

type Taker = (chunk: Uint8Array, at: number) => Promise<void>;

export class Http {
  readonly #options: HttpOptions;

  constructor(options: HttpOptions = {}) {
    this.#options = options;
  }

  /** Includes headers before a redirect; undefined where there is no such file. */
  head(ask: Ask): Promise<Headers | undefined> {
    return this.#tries(async (signal) => {
      const first = await send(ask, { method: "HEAD", follow: false, signal });
      const leads = first.status >= 300 && first.status < 400;
      const last = leads ? await send(ask, { method: "HEAD", signal }) : first;
      if (last.status === 404) return undefined;
      if (!ok(last)) throw refusal(ask, last);
      const headers = new Headers(last.headers);
      for (const [name, value] of first.headers) if (name.startsWith("x-linked-")) headers.set(name, value);
      return headers;
    });
  }

  text(ask: Ask, bytesMax: number): Promise<string> {
    return this.#tries(async (signal, alive) => {
      const response = await send(ask, { signal });
      if (!ok(response)) throw refusal(ask, response);
      const pieces: Uint8Array[] = [];
      let bytes = 0;
      for await (const chunk of bodyOf(ask, response)) {
        alive(chunk.length);
        bytes += chunk.length;
        if (bytes > bytesMax) throw new AppError(`${shown(ask)}: more than ${bytesMax} bytes`, { code: "BadSource" });
        pieces.push(chunk);
      }
      return Buffer.concat(pieces).toString("utf8");
    });
  }

  /** Delivers bytes in order; calls `ask` per try, since signatures expire. */
  async range(ask: () => Promise<Ask>, { to, of, etag, ...range }: Range, take: Taker): Promise<void> {
    let from = range.from;
    let last = from;
    const more = () => {
      const moved = from - last >= progressBytes;
      if (moved) last = from;
      return moved;
    };
    if (from === to) return;
    await this.#tries(async (signal, alive) => {
      const request = await ask();
      const headers = { ...request.headers, range: `bytes=${from}-${to - 1}` };
      const response = await send({ ...request, headers }, { signal });
      checkRange(request, response, { from, to, of, etag });
      for await (const chunk of bodyOf(request, response)) {
        alive(chunk.length);
        if (from + chunk.length > to) throw broken(request, "sent more than was asked for");
        await take(chunk, from);
        from += chunk.length;
      }
      if (from < to) throw broken(request, `broke off after ${from} of ${of} bytes`);
    }, more);
  }

  async #tries<T>(
    work: (signal: AbortSignal, alive: (bytes: number) => void) => Promise<T>,
    moved: () => boolean = () => false,
  ): Promise<T> {
    const { signal, onWait, sleep = pause, random = Math.random, silenceMs = silenceMsDefault } = this.#options;
    for (let tries = 1; ; tries++) {
      const silence = new Silence(signal, silenceMs);
      try {
        return await work(silence.signal, (bytes) => silence.alive(bytes));
      } catch (caught) {
        if (signal?.aborted) throw new AppError("the download was stopped", { code: "Stopped", cause: caught, retry: "backoff" });
        const error = silence.over ? silent(silenceMs, caught) : asAppError(caught);
        if (moved()) tries = 1;
        if (error.retry === "never" || tries >= triesMax) throw error;
        const ms = waitMs(error, tries, random());
        onWait?.(`${error.message}; trying again in ${Math.ceil(ms / 1000)} s`);
        await sleep(ms, signal);
      } finally {
        silence.end();
      }
    }
  }
}

class Silence {
  readonly #own = new AbortController();
  readonly signal: AbortSignal;
  over = false;
  #heardBytes = 0;
  readonly #ms: number;
  #timer: NodeJS.Timeout;

  constructor(outer: AbortSignal | undefined, ms: number) {
    this.#ms = ms;
    this.signal = outer ? AbortSignal.any([outer, this.#own.signal]) : this.#own.signal;
    this.#timer = this.#arm();
  }
  alive(bytes: number): void {
    this.#heardBytes += bytes;
    if (this.#heardBytes < heardBytesMin) return;
    this.#heardBytes = 0;
    clearTimeout(this.#timer);
    this.#timer = this.#arm();
  }
  end(): void {
    clearTimeout(this.#timer);
    this.#own.abort(); // an unread body would hold its connection
  }
  #arm(): NodeJS.Timeout {
    return setTimeout(() => {
      this.over = true;
      this.#own.abort();
    }, this.#ms);
  }
}

const ok = ({ status }: Answer): boolean => status >= 200 && status < 300;

async function* bodyOf(ask: Ask, response: Answer): AsyncGenerator<Uint8Array> {
  const encoding = response.headers.get("content-encoding") ?? "identity";
  if (encoding !== "identity")
    throw new AppError(`${shown(ask)}: answered in ${encoding}, which was not request for`, { code: "BadSource" });
  yield* response.body as AsyncIterable<Uint8Array>;
}

function checkRange(ask: Ask, response: Answer, { from, to, of, etag }: Range): void {
  const have = response.headers.get("etag");
  const changed = etag !== undefined && have !== null && have !== etag;
  if (response.status === 412 || changed) throw sourceChanged(ask);
  // A 200 is right where the range is the whole file.
  const whole = from === 0 && to === of;
  if (response.status === 200 && whole) checkLength(ask, response, of);
  if (response.status === 200 && whole) return;
  if (response.status === 200)
    throw new AppError(`${shown(ask)}: answers without ranges, so that nothing could be resumed; serve it by a server that knows them`, {
      code: "RangesNotSupported",
    });
  if (response.status === 416) throw sourceChanged(ask); // it became shorter
  if (response.status !== 206) throw refusal(ask, response);
  const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "") ?? [];
  if (Number(start) !== from) throw broken(ask, `answered with another range (${response.headers.get("content-range")})`);
  if (total !== "*" && Number(total) !== of) throw sourceChanged(ask);
}

function checkLength(ask: Ask, response: Answer, bytes: number): void {
  const length = response.headers.get("content-length");
  if (length !== null && Number(length) !== bytes) throw sourceChanged(ask);
}

function sourceChanged(ask: Ask): AppError {
  return new AppError(`${shown(ask)}: was changed while it was downloaded; it is listed anew`, { code: "SourceChanged", retry: "never" });
}

const broken = (ask: Ask, what: string): AppError =>
  new AppError(`${shown(ask)}: ${what}`, { code: "SourceUnavailable", retry: "backoff" });

function refusal(ask: Ask, response: Answer): AppError {
  const { status } = response;
  const region = response.headers.get("x-amz-bucket-region");
  const elsewhere = region === null ? "" : `; the bucket is in ${region}: set AWS_REGION so`;
  if (status === 401 || status === 403) {
    const given = ask.headers?.authorization !== undefined;
    const remedy = given
      ? "the credentials that were given may not read it"
      : "it is private, gated or not there, and no credentials were given";
    return new AppError(`${shown(ask)} answered ${status}: ${remedy}${elsewhere}`, { code: "SourceRefused" });
  }
  if (status === 404 || status === 410)
    return new AppError(`${shown(ask)} answered ${status}: it is not there`, { code: "SourceNotFound" });
  const passing = status === 408 || status === 425 || status === 429 || status >= 500;
  if (!passing) return new AppError(`${shown(ask)} answered ${status}${elsewhere}`, { code: "BadSource" });
  const { headers } = response;
  const reset = /;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "")?.[1] ?? null; // a hub's own header has no Retry-After beside it
  const afterMs = retryAfterMs(headers.get("retry-after") ?? reset, headers.get("date"));
  const retry = afterMs === undefined ? ("backoff" as const) : { afterMs };
  return new AppError(`${shown(ask)} answered ${status}`, { code: "SourceUnavailable", retry });
}

/** Seconds, or a date by the server's clock. */
function retryAfterMs(text: string | null, date: string | null): number | undefined {
  if (text === null || text.trim() === "") return undefined;
  const ms = /^\d+$/.test(text.trim()) ? Number(text) * 1000 : Date.parse(text) - (Date.parse(date ?? "") || Date.now());
  return Number.isFinite(ms) ? Math.max(0, Math.min(ms, retryAfterMsMax)) : undefined;
}

function waitMs({ retry }: AppError, tries: number, random: number): number {
  const grown = Math.min(waitMsMax, waitMsMin * 2 ** (tries - 1)) * (0.5 + random / 2);
  return typeof retry === "object" ? retry.afterMs + grown : grown;
}

/** A retry does not change these. */
const strangers = ["SELF_SIGNED", "UNABLE_TO_", "CERT_", "ERR_TLS_CERT"];

/** Sockets share some of the codes. */
const diskCalls = ["write", "pwrite", "open", "fdatasync", "fsync", "ftruncate", "rename"];
const socketCodes = ["EPIPE", "ECONNRESET"];
const fullCodes = ["ENOSPC", "EDQUOT"];

export function diskError(caught: unknown): AppError | undefined {
  const { code, syscall } = caught as { code?: string; syscall?: string };
  if (code === undefined || syscall === undefined || !diskCalls.includes(syscall) || socketCodes.includes(code)) return undefined;
  if (!fullCodes.includes(code))
    return new AppError(`writing what was downloaded: ${code}`, { code: "DiskFailed", retry: "backoff", cause: caught });
  const remedy = "enlarge the claim, or delete what nobody needs in it";
  return new AppError(`the disk is full: ${remedy}`, { code: "NotEnoughSpace", cause: caught });
}

function asAppError(caught: unknown): AppError {
  if (caught instanceof AppError) return caught;
  const disk = diskError(caught);
  if (disk) return disk;
  const { code, message } = caught as { code?: string; message?: string };
  const why = code ?? message ?? String(caught);
  if (strangers.some((start) => why.includes(start)))
    return new AppError(`the source's certificate is not trusted: ${why}; give its CA as ca.crt`, {
      code: "SourceUntrusted",
      cause: caught,
    });
  return new AppError(`the source cannot be reached: ${socketWords(why) ?? why}`, {
    code: "SourceUnavailable",
    retry: "backoff",
    cause: caught,
  });
}

const silent = (ms: number, cause: unknown): AppError =>
  new AppError(`the source sent less than ${heardBytesMin} bytes in ${ms / 1000} s`, {
    code: "SourceUnavailable",
    retry: "backoff",
    cause,
  });

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new AppError("the download was stopped", { code: "Stopped", retry: "backoff" }));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
