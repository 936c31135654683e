// Asks a training pod for its trace over a forwarded port. The lines are bounded, and whoever reads them parses them.
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import type { Duplex } from "node:stream";
import { AppError } from "../../crds/common.ts";
import { tracePath } from "../../crds/training-process.ts";
import { linesOf } from "../kube/transport.ts";
import { plainLine } from "./table.ts";

const answerMsMax = 15_000;
/** Fits as many spans as a pod puts into a line. */
const lineBytesMax = 16 * 1024 * 1024;
const refusalBytesMax = 64 * 1024;

/** Ends with the pod's trace; throws where the connection breaks or the signal is aborted, and AppError `OldImage` without such a port. */
export async function* traceLines(connection: Duplex, pod: string, signal: AbortSignal): AsyncGenerator<string, void, void> {
  const response = await answerOf(connection, pod, signal);
  try {
    yield* linesOf(response, lineBytesMax);
  } catch (cause) {
    const why = (cause as Error).message;
    throw new AppError(`the connection to pod ${pod} broke: ${why}`, { code: "Unavailable", cause, retry: "backoff" });
  }
}

async function answerOf(connection: Duplex, pod: string, signal: AbortSignal): Promise<IncomingMessage> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), answerMsMax);
  const either = AbortSignal.any([signal, late.signal]);
  const pending = request({ path: tracePath, headers: { host: pod }, createConnection: () => connection, signal: either });
  pending.on("error", () => {}); // also after its answer has begun
  try {
    const [response]: IncomingMessage[] = await once(pending.end(), "response");
    if (response?.statusCode === 200) return response;
    const refusal = response && (await linesOf(response, refusalBytesMax).next()).value;
    throw new AppError(`pod ${pod}: ${refusal === undefined ? `HTTP ${response?.statusCode}` : plainLine(refusal)}`, { code: "Refused" });
  } catch (caught) {
    const why = late.signal.aborted ? new Error(`no answer within ${answerMsMax / 1000} s`) : (caught as Error);
    if (/connection refused|ECONNREFUSED/i.test(why.message)) throw oldImage(pod, caught);
    throw AppError.from(why, `asking pod ${pod} for its trace`);
  } finally {
    clearTimeout(timer);
  }
}

const oldImage = (pod: string, cause: unknown): AppError =>
  new AppError(
    `pod ${pod} has no traces: its image is older than this command, or the port was taken, as its log says; a job keeps the image that it began with, unless spec.image names another`,
    { code: "OldImage", cause },
  );
