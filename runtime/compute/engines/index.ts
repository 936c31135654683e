// A device with a processor beside it (../DECISIONS.md 14): the processor has all experts of the rank, the device copies of some of them. Rows
// of a layer of which the device lacks an expert pass by the host and are dealt to both.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightForms, Weights } from "../../kernels/weights.ts";
import type { Backend, Compiled, ComputeQueue, ExpertSlab, Inputs, Outputs, Pause } from "../backend.ts";
import { isOutOfMemory } from "../ggml/out-of-memory.ts";
import { deal, type Engines } from "./deal.ts";
import { type EngineTimes, expertsTimed, measureTimes, secondsOf } from "./times.ts";

export interface BesideOptions {
  /** Of the device, for copies of experts. */
  readonly deviceBytes: number;
  /** Layers that have experts. */
  readonly layers: number;
  /** Unset: measured with the first expert of a form. */
  readonly times?: Engines<EngineTimes>;
}

/** Undefined for a form of which the device has no memory even for a trial. */
type Times = Pick<Engines<EngineTimes>, "processor"> & { readonly device: EngineTimes | undefined };

/** Forms of experts that have a table of their own; others take the first one. */
const tablesMax = 16;
/** Of a layer's time, which the search for the best split may leave. */
const dealGap = 0.01;

interface Placed {
  readonly processor: Compiled;
  readonly device: Compiled | undefined;
  readonly times: Times;
}

interface Form {
  readonly key: string;
  /** Of an expert on the device. */
  readonly bytes: number;
}

class DealtSlab implements ExpertSlab {
  readonly copies = true;
  readonly on: Engines<ExpertSlab>;
  readonly #engines: TwoEngines;
  readonly #segment: Segment;
  /** Copies on the device and the slots that they take there, by form. */
  readonly #copied = new Map<string, { copies: number; slots: number }>();
  #bytesLeft: number;

  constructor(engines: TwoEngines, segment: Segment, on: Engines<ExpertSlab>) {
    this.#engines = engines;
    this.#segment = segment;
    this.on = on;
    this.#bytesLeft = engines.bytesOfLayer;
  }

  async put(expert: number, weights: Weights, pause?: Pause): Promise<Compiled> {
    const forms: WeightForms = Object.fromEntries(Object.entries(weights).map(([name, { form }]) => [name, form]));
    const form = { key: JSON.stringify(forms), bytes: this.#engines.device.expertResidentBytes(this.#segment, forms) };
    const times = await this.#engines.timesOf(this.#segment, weights, form.key);
    const processor = await this.on.processor.put(expert, weights, pause);
    const copying = times.device === undefined ? undefined : this.#copy(expert, weights, form);
    const device = await copying?.catch(async (caught: unknown) => {
      await processor.dispose();
      throw caught;
    });
    if (device === undefined) this.on.device.apart?.(1);
    const engines = this.#engines;
    const program: Compiled = {
      residentBytes: processor.residentBytes,
      run: async (inputs) => {
        if (!engines.placed.has(program)) throw new TypeError(`${this.#segment.name} is run after it was disposed of`);
        return (await engines.runMany([{ program, inputs }]))[0] as Outputs;
      },
      dispose: async () => {
        if (!engines.placed.delete(program)) return;
        if (device === undefined) this.on.device.apart?.(-1);
        else this.#count(form, -1);
        await device?.dispose();
        await processor.dispose();
      },
    };
    engines.placed.set(program, { processor, device, times });
    return program;
  }

  async #copy(expert: number, weights: Weights, form: Form): Promise<Compiled | undefined> {
    const { slots } = this.#count(form, 1);
    try {
      if (this.#bytesLeft >= 0) return await this.on.device.put(expert, weights);
    } catch (caught) {
      if (!isOutOfMemory(caught)) {
        this.#count(form, -1, slots);
        throw caught;
      }
    }
    this.#count(form, -1, slots);
    return undefined;
  }

  /** The device's memory grows by steps and shrinks when two are empty; `slots`: what it has again. Returns what was before. */
  #count({ key, bytes }: Form, change: 1 | -1, slots?: number): { readonly copies: number; readonly slots: number } {
    const { step = 1 } = this.on.device;
    const before = this.#copied.get(key) ?? { copies: 0, slots: 0 };
    const copies = before.copies + change;
    const now = { copies, slots: slots ?? slotsFor(copies, before.slots, step) };
    this.#copied.set(key, now);
    this.#bytesLeft -= (now.slots - before.slots) * bytes;
    return before;
  }
}

function slotsFor(copies: number, had: number, step: number): number {
  if (copies > had) return had + step;
  if (copies === 0) return 0;
  return copies <= had - 2 * step ? had - step : had;
}

class TwoEngines {
  readonly placed = new Map<Compiled, Placed>();
  readonly device: Backend;
  readonly bytesOfLayer: number;
  readonly #processor: Backend;
  readonly #queue: ComputeQueue;
  readonly #planted: Times | undefined;
  readonly #times = new Map<string, Times>();

  constructor(device: Backend, processor: Backend, { deviceBytes, layers, times }: BesideOptions) {
    this.device = device;
    this.#processor = processor;
    this.#queue = processor.hasPrefillQueue ? "prefill" : "main";
    this.bytesOfLayer = deviceBytes / layers;
    this.#planted = times;
  }

  createExpertSlab(...of: Parameters<Backend["createExpertSlab"]>): DealtSlab {
    const on = { device: this.device.createExpertSlab(...of), processor: this.#processor.createExpertSlab(...of) };
    return new DealtSlab(this, of[0], on);
  }

  async runMany(calls: Parameters<Backend["runMany"]>[0]): Promise<readonly Outputs[]> {
    const placed = calls.flatMap(({ program }) => this.placed.get(program) ?? []);
    const [first] = placed;
    if (first === undefined || placed.length < calls.length) return this.device.runMany(calls);
    const seconds = placed.map((each, i) => secondsOn(each, calls[i]?.inputs));
    const dealt = deal(seconds, { device: first.times.device?.start ?? 0, processor: first.times.processor.start }, dealGap);
    const callsOf = (engine: keyof Engines<unknown>) =>
      dealt[engine].map((at) => ({ program: placed[at]?.[engine] as Compiled, inputs: calls[at]?.inputs as Inputs }));
    // The processor's graph runs on a thread of its own when the device is given its.
    const [processor, device] = await Promise.allSettled([
      this.#processor.runMany(callsOf("processor"), this.#queue),
      this.device.runMany(callsOf("device")),
    ]);
    if (processor.status === "rejected") throw processor.reason;
    if (device.status === "rejected") throw device.reason;
    const outputs = new Array<Outputs>(calls.length);
    for (const [i, at] of dealt.processor.entries()) outputs[at] = processor.value[i] as Outputs;
    for (const [i, at] of dealt.device.entries()) outputs[at] = device.value[i] as Outputs;
    return outputs;
  }

  /** `form`: of the weights. */
  async timesOf(segment: Segment, weights: Weights, form: string): Promise<Times> {
    const key = `${form} ${segment.weights.map(({ shape }) => shape)}`;
    const other = this.#times.size < tablesMax ? undefined : this.#times.values().next().value;
    const known = this.#planted ?? this.#times.get(key) ?? other;
    if (known !== undefined) return known;
    const processor = await timesOn(this.#processor, segment, weights, this.#queue);
    const device = await timesOn(this.device, segment, weights).catch((caught) => {
      if (isOutOfMemory(caught)) return undefined;
      throw caught;
    });
    const times = { processor, device };
    this.#times.set(key, times);
    return times;
  }
}

function secondsOn({ device, times }: Placed, inputs: Inputs = {}): Engines<number> {
  const rows = Math.max(1, ...Object.values(inputs).map(({ shape: [count = 1] }) => count));
  const here = device && times.device ? secondsOf(times.device, rows) : Number.POSITIVE_INFINITY;
  return { device: here, processor: secondsOf(times.processor, rows) };
}

async function timesOn(backend: Backend, segment: Segment, weights: Weights, queue?: ComputeQueue): Promise<EngineTimes> {
  const slab = backend.createExpertSlab(segment, expertsTimed);
  const programs: Compiled[] = [];
  const { name = "", width = 0 } = segment.inputs[0] ?? {};
  try {
    for (let expert = 0; expert < expertsTimed; expert++) programs.push(await slab.put(expert, weights));
    return await measureTimes((experts, rows) => {
      const inputs = { [name]: { shape: [rows, width], data: new Float32Array(rows * width).fill(0.01) } };
      const calls = programs.slice(0, experts).map((program) => ({ program, inputs }));
      return backend.runMany(calls, queue);
    });
  } finally {
    for (const program of programs) await program.dispose();
  }
}

/** The device's backend but for experts, which the processor computes with it; its close closes both. */
export function withProcessor(device: Backend, processor: Backend, options: BesideOptions): Backend {
  const engines = new TwoEngines(device, processor, options);
  const own: Partial<Backend> = {
    device: `${device.device}; experts beside it on ${processor.device}`,
    sharesCores: true,
    numerics: (form) => [...new Set([device.numerics(form), processor.numerics(form)])].join(" beside "),
    expertResidentBytes: (...of) => processor.expertResidentBytes(...of),
    createExpertSlab: (...of) => engines.createExpertSlab(...of),
    createRange(layers, ends) {
      const onDevice = layers.map((each) =>
        each.expertSlab instanceof DealtSlab ? Object.assign({}, each, { expertSlab: each.expertSlab.on.device }) : each,
      );
      return device.createRange(onDevice, ends);
    },
    runMany: (calls) => engines.runMany(calls),
    fault: () => device.fault() ?? processor.fault(),
    withOptions: (changed) => withProcessor(device.withOptions(changed), processor, options),
    close: async () => {
      try {
        await device.close();
      } finally {
        await processor.close();
      }
    },
  };
  return new Proxy(device, {
    get(target, name) {
      const value: unknown = Reflect.get(Object.hasOwn(own, name) ? own : target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
