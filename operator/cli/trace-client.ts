// Reads the trace of one training pod: a head, then steps. Lines are bounded.
import { type IncomingMessage, request } from "node:http";
import type { Duplex } from "node:stream";
import type { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { type TracedStep, tracedStepSchema, traceHeadSchema, traceLineBytesMax, tracePath } from "../../crds/training-trace.ts";

const answerMsMax = 15_000;
const refusalBytesMax = 64 * 1024;
const newline = "\n".charCodeAt(0);

export interface TracedPod {
  readonly pod: string;
  readonly uid: string;
}

export interface PodTrace {
  /** Offset of its clock to Unix ms. */
  readonly originMs: number;
  /** Ends with the pod's trace; throws where the connection breaks or the signal is aborted. */
  readonly steps: AsyncIterable<TracedStep>;
}

/** Throws AppError `OldImage` without such a port, `WrongPod` where another pod answers. */
export async function openTrace(connection: Duplex, { pod, uid }: TracedPod, signal: AbortSignal): Promise<PodTrace> {
  const response = await answerOf(connection, pod, signal);
  const lines = linesOf(response);
  const head = await lines.next();
  if (head.done === true) throw new AppError(`pod ${pod} ended before it sent anything`, { code: "Unavailable", retry: "backoff" });
  const { pod: answers, originMs } = parsed(traceHeadSchema, head.value, pod);
  if (answers !== uid) throw new AppError(`pod ${pod} is another one now; ask again`, { code: "WrongPod" });
  return { originMs, steps: stepsOf(lines, pod) };
}

async function* stepsOf(lines: AsyncIterable<string>, pod: string): AsyncIterable<TracedStep> {
  try {
    for await (const line of lines) yield parsed(tracedStepSchema, line, pod);
  } catch (caught) {
    if (caught instanceof AppError) throw caught;
    const why = (caught as Error).message;
    throw new AppError(`the connection to pod ${pod} broke: ${why}`, { code: "Unavailable", cause: caught, retry: "backoff" });
  }
}

async function answerOf(connection: Duplex, pod: string, signal: AbortSignal): Promise<IncomingMessage> {
  const late = AbortSignal.timeout(answerMsMax);
  const pending = request({ path: tracePath, headers: { host: pod }, createConnection: () => connection, signal });
  const tooLate = (): void => void pending.destroy(new Error(`no answer within ${answerMsMax / 1000} s`));
  late.addEventListener("abort", tooLate);
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      pending.once("response", resolve);
      pending.once("error", reject);
      pending.end();
    });
    if (response.statusCode === 200) return response;
    throw new AppError(`pod ${pod}: ${await refusalIn(response)}`, { code: "Refused" });
  } catch (caught) {
    if (/connection refused|ECONNREFUSED/i.test((caught as Error).message)) throw oldImage(pod, caught);
    throw caught instanceof AppError ? caught : AppError.from(caught, `asking pod ${pod} for its trace`);
  } finally {
    late.removeEventListener("abort", tooLate);
  }
}

const oldImage = (pod: string, cause: unknown): AppError =>
  new AppError(
    `pod ${pod} tells no traces: its image is older than this command, or the port was taken, as its log says; a job keeps the image that it began with, unless spec.image names another`,
    { code: "OldImage", cause },
  );

async function refusalIn(response: IncomingMessage): Promise<string> {
  let text = "";
  for await (const piece of response as AsyncIterable<Buffer>) {
    text += piece.toString("utf8");
    if (text.length > refusalBytesMax) break;
  }
  try {
    return String((JSON.parse(text) as { message?: unknown }).message);
  } catch {
    return `HTTP ${response.statusCode}`;
  }
}

function parsed<Schema extends z.ZodType>(schema: Schema, line: string, pod: string): z.infer<Schema> {
  try {
    return schema.parse(JSON.parse(line));
  } catch (cause) {
    throw new AppError(`pod ${pod} tells its trace in a way that this command does not read; take the command of the pod's release`, {
      code: "BadAnswer",
      cause,
    });
  }
}

async function* linesOf(response: IncomingMessage): AsyncGenerator<string, void, void> {
  let pieces: Buffer[] = [];
  let bytes = 0;
  for await (let chunk of response as AsyncIterable<Buffer>) {
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline)) {
      yield Buffer.concat([...pieces, chunk.subarray(0, end)]).toString("utf8");
      [pieces, bytes, chunk] = [[], 0, chunk.subarray(end + 1)];
    }
    pieces.push(chunk);
    bytes += chunk.length;
    if (bytes > traceLineBytesMax) throw new AppError(`a line of more than ${traceLineBytesMax} bytes`, { code: "MessageTooLarge" });
  }
}
