// The port that streams a training pod's steps as lines of OTLP's JSON, on loopback, so that only a port-forward reaches it. Steps and
// spans that wait are bounded.
import { EventEmitter } from "node:events";
import type { ServerResponse } from "node:http";
import { pipeline, Readable } from "node:stream";
import { setImmediate as macrotask } from "node:timers/promises";
import { tracedStepsMax, tracePath } from "../../../crds/training-process.ts";
import { type BoundedServer, listenBounded } from "../../observe/bounded-server.ts";
import { openOtlpLines } from "../../observe/trace.ts";
import type { Span } from "../trace/spans.ts";
import { endedSpans, type TracedStep } from "../trace/traced-step.ts";

const askersMax = 4;
/** A trace ends after it, should its client be gone without a word. */
const askedMsMax = 60 * 60_000;
/** Beside the oldest step. A client with more is dropped: this memory, about 16 MB, is not in the rank's estimate. */
export const waitingSpansMax = 100_000;
/** Encoded at once, in about 10 ms. */
const spansOfLine = 2_048;

export interface TraceServerOptions {
  readonly host: string;
  readonly port: number;
  /** Uid of the job. */
  readonly job: string;
  /** The resource of its spans. */
  readonly attributes: Readonly<Record<string, string | number>>;
  readonly traces: StepTraces;
  /** The offset from the spans' clock to Unix ms. */
  readonly originMs: () => number;
}

export function listenForTraces(options: TraceServerOptions): Promise<BoundedServer> {
  const { host, port, attributes } = options;
  let askers = 0;
  let encoder: Encoder | undefined;
  return listenBounded({
    ...{ name: "trace", host, port },
    handle({ method, url, socket }, response) {
      if (method !== "GET" || url !== tracePath) return refuse(response, 404, `not found; here is GET ${tracePath}`);
      if (askers === askersMax) return refuse(response, 429, `${askersMax} are served already: end one of them, or ask again later`);
      askers += 1;
      const end = setTimeout(() => response.destroy(), askedMsMax).unref();
      response.once("close", () => {
        askers -= 1;
        clearTimeout(end);
      });
      socket.setTimeout(0); // until the next step
      encoder ??= openOtlpLines("trainer", attributes);
      stream(response, encoder, options);
    },
  });
}

type Encoder = ReturnType<typeof openOtlpLines>;

function refuse(response: ServerResponse, status: number, message: string): void {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8", connection: "close" }).end(`${message}\n`);
}

function stream(response: ServerResponse, encoder: Encoder, { traces, job, originMs }: TraceServerOptions): void {
  const origin = originMs();
  const steps = new Readable({ objectMode: true, read() {} });
  let [asked, waiting] = [0, 0];
  const take = (step: TracedStep): void => {
    if (waiting > 0 && waiting + step.spans.length > waitingSpansMax) return void response.destroy();
    waiting += step.spans.length;
    steps.push(step);
    asked += 1;
    if (asked < tracedStepsMax) return;
    traces.off("step", take);
    steps.push(null);
  };
  async function* lines(source: AsyncIterable<TracedStep>): AsyncGenerator<string> {
    const encode = await encoder;
    for await (const step of source) {
      for (const spans of endedSpans(step, { job, originMs: origin, most: spansOfLine })) {
        yield encode(spans);
        await macrotask(); // lets frames of the next step in
      }
      waiting -= step.spans.length;
    }
  }
  response.writeHead(200, { "content-type": "application/x-ndjson", connection: "close" }).flushHeaders();
  traces.on("step", take);
  response.once("close", () => {
    traces.off("step", take);
    steps.destroy();
  });
  pipeline(steps, lines, response, () => {});
}

/** Tells listeners each step of a training pod; without one nothing is done for it. */
export class StepTraces extends EventEmitter<{ step: [TracedStep] }> {
  #world: Pick<TracedStep, "epoch" | "group"> = { epoch: 0, group: 0 };

  begins(epoch: number, group: number): void {
    this.#world = { epoch, group };
  }

  ended(step: number, spans: readonly Span[]): void {
    this.emit("step", { ...this.#world, step, spans });
  }
}
