// Records the time of a rank's compute backend and transport. Without a recorder a rank has the plain objects.
import type { TrainableExpert, TrainableLoss, TrainableSegment, TrainingBackend } from "../../compute/training.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { Transport } from "../../net/collectives/transport.ts";
import type { RankContext } from "../ranks/rank-context.ts";
import { kindOfFrames, type Span, stepSpansMax } from "./spans.ts";

export type NamedSpan = Omit<Span, "fromMs" | "toMs">;

export interface Clocked {
  around<T>(named: NamedSpan, run: () => Promise<T>): Promise<T>;
}

export class Recorder implements Clocked {
  readonly #now: () => number;
  readonly #max: number;
  readonly #spans: Span[] = [];

  /** `now`: milliseconds of a clock that all ranks of a trace share; up to twice `max` spans are in memory. */
  constructor(now: () => number, max = stepSpansMax) {
    this.#now = now;
    this.#max = max;
  }

  async around<T>(named: NamedSpan, run: () => Promise<T>): Promise<T> {
    const fromMs = this.#now();
    try {
      return await run();
    } finally {
      this.#add(Object.assign({ fromMs, toMs: this.#now() }, named));
    }
  }

  /** Spans since the last call, in the order in which they ended. */
  take(): Span[] {
    return this.#spans.splice(0).slice(-this.#max);
  }

  #add(span: Span): void {
    if (this.#spans.length === 2 * this.#max) this.#spans.splice(0, this.#max);
    this.#spans.push(span);
  }
}

/** `first`: the index of its first rank in the whole trace. */
export function recordedTransport(transport: Transport, recorder: Clocked, first = 0): Transport {
  const { rank, ranks } = transport;
  return {
    rank,
    ranks,
    send(to, stamp, name, payload) {
      const { what, layer } = name;
      const named = { kind: kindOfFrames(what), name: `send ${what}`, layer, bytes: payload.byteLength, peer: first + to };
      return recorder.around(named, () => transport.send(to, stamp, name, payload));
    },
    receive(from, stamp, wanted) {
      const { what, layer } = wanted;
      const named = { kind: kindOfFrames(what), name: `receive ${what}`, layer, peer: first + from };
      return recorder.around(named, () => transport.receive(from, stamp, wanted));
    },
  };
}

export function recordedContext(context: RankContext, recorder: Clocked): RankContext {
  const { transport, group } = context;
  if (group === undefined) return { ...context, transport: recordedTransport(transport, recorder) };
  const within = recordedTransport(transport, recorder, group.firsts[group.world]);
  return { ...context, transport: within, group: { ...group, transport: recordedTransport(group.transport, recorder) } };
}

function layerOf({ name }: Segment): number {
  const number = /^block\.(\d+)$/.exec(name)?.[1];
  return number === undefined ? -1 : Number(number);
}

export function recordedBackend(backend: TrainingBackend, recorder: Clocked): TrainingBackend {
  let layer = -1;
  const computing = (name: string, of: number) => ({ kind: "compute" as const, name, layer: of });
  return {
    device: backend.device,
    numerics: backend.numerics,
    async compile(segment, tokens): Promise<TrainableSegment> {
      const compiled = await backend.compile(segment, tokens);
      layer = layerOf(segment);
      const [own, name] = [layer, layer < 0 ? segment.name : "block"];
      return {
        keeps: compiled.keeps,
        forward: (values, weights, kept) =>
          recorder.around(computing(`${name} forward`, own), () => compiled.forward(values, weights, kept)),
        backward: (call) => recorder.around(computing(`${name} backward`, own), () => compiled.backward(call)),
      };
    },
    async compileExpert(expert): Promise<TrainableExpert> {
      const [compiled, own] = [await backend.compileExpert(expert), layer];
      const width = expert.inputs[0]?.width ?? 1;
      return {
        keeps: compiled.keeps,
        rowsAtOnce: compiled.rowsAtOnce,
        rowsInPlace: compiled.rowsInPlace,
        forward(x, weights, kept) {
          const named = Object.assign(computing("expert forward", own), { rows: x.length / width });
          return recorder.around(named, () => compiled.forward(x, weights, kept));
        },
        async backward(call) {
          const named = Object.assign(computing("expert backward", own), { rows: call.gates.length });
          const { addTo, ...gradients } = await recorder.around(named, () => compiled.backward(call));
          const summing = (rows: number) => Object.assign(computing("expert sums", own), { rows });
          return {
            ...gradients,
            addTo: (sums, from, to) => recorder.around(summing(to - from), () => addTo(sums, from, to)),
          };
        },
      };
    },
    async compileLoss(head): Promise<TrainableLoss> {
      const compiled = await backend.compileLoss(head);
      return {
        forward: (call) => recorder.around(computing("head forward", -1), () => compiled.forward(call)),
        backward: (call) => recorder.around(computing("head backward", -1), () => compiled.backward(call)),
      };
    },
    close: () => backend.close(),
  };
}
