// A device with a processor beside it (../DECISIONS.md 14): the processor has all experts of the rank, the device copies of some of them. Rows
// of a layer of which the device lacks an expert pass by the host and are dealt to both.
import { AppError } from "../../../crds/common.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { WeightForms, Weights } from "../../kernels/weights.ts";
import type { Backend, Compiled, ComputeQueue, ExpertSlab, Inputs, Outputs, Pause } from "../backend.ts";
import { isOutOfMemory } from "../ggml/out-of-memory.ts";
import { deal, type Engines } from "./deal.ts";
import { type Copied, type Exchange, HotCopies } from "./hot-copies.ts";
import { type EngineTimes, expertsTimed, measureTimes, secondsOf } from "./times.ts";

export interface BesideOptions {
  /** Of the device, for copies of experts. */
  readonly deviceBytes: number;
  /** Layers that have experts. */
  readonly layers: number;
  /** Unset: measured with the first expert of a form. */
  readonly times?: Engines<EngineTimes>;
  /** Weights of an expert that is here, for another copy; unset: copies stay with the experts that came first. */
  readonly read?: (layer: number, expert: number) => Promise<Weights>;
}

/** The device's: undefined while it has no memory even for a trial of that form. */
type Times = Pick<Engines<EngineTimes>, "processor"> & { device: EngineTimes | undefined };

/** Forms of experts that have a table of their own; others take the first one. */
const tablesMax = 16;
/** Of a layer's time, which the search for the best split may leave. */
const dealGap = 0.01;

interface Placed extends Copied {
  readonly processor: Compiled;
  device: Compiled | undefined;
  readonly times: Times;
  readonly slab: DealtSlab;
  readonly deviceBytes: number;
}

type Form = Pick<Placed, "form" | "deviceBytes">;

class DealtSlab implements ExpertSlab {
  readonly copies = true;
  readonly on: Engines<ExpertSlab>;
  readonly here = new Set<Placed>();
  readonly #engines: TwoEngines;
  readonly #segment: Segment;
  readonly #layer: number;
  /** Copies on the device and the slots that they take there, by form. */
  readonly #copied = new Map<string, { copies: number; slots: number }>();
  #bytesLeft: number;

  constructor(engines: TwoEngines, { segment, layer }: { readonly segment: Segment; readonly layer: number }, on: Engines<ExpertSlab>) {
    this.#engines = engines;
    this.#segment = segment;
    this.#layer = layer;
    this.on = on;
    this.#bytesLeft = engines.bytesOfLayer;
  }

  async put(expert: number, weights: Weights, pause?: Pause): Promise<Compiled> {
    const forms: WeightForms = Object.fromEntries(Object.entries(weights).map(([name, { form }]) => [name, form]));
    const form = { form: JSON.stringify(forms), deviceBytes: this.#engines.device.expertResidentBytes(this.#segment, forms) };
    const times = await this.#engines.timesOf(this.#segment, weights, form);
    const processor = await this.on.processor.put(expert, weights, pause);
    const copying = times.device === undefined ? undefined : this.#copy(expert, weights, form);
    const device = await copying?.catch(async (caught: unknown) => {
      await processor.dispose();
      throw caught;
    });
    if (device === undefined) this.on.device.apart?.(1);
    const placed: Placed = { ...form, ...{ processor, device, times, expert, layer: this.#layer, slab: this, rows: 0 } };
    const { here } = this;
    here.add(placed);
    const engines = this.#engines;
    const program: Compiled = {
      residentBytes: processor.residentBytes,
      run: async (inputs) => {
        if (!here.has(placed)) throw new TypeError(`${this.#segment.name} is run after it was disposed of`);
        return (await engines.runMany([{ program, inputs }]))[0] as Outputs;
      },
      dispose: async () => {
        if (!here.delete(placed)) return;
        engines.placed.delete(program);
        const takenBack = this.#takeBack(placed);
        this.on.device.apart?.(-1);
        await takenBack;
        await processor.dispose();
      },
    };
    engines.placed.set(program, placed);
    return program;
  }

  readonly hasRoom = ({ form, deviceBytes }: Form): boolean => {
    const { copies, slots } = this.#copied.get(form) ?? { copies: 0, slots: 0 };
    return (slotsFor(copies + 1, slots, this.on.device.step ?? 1) - slots) * deviceBytes <= this.#bytesLeft;
  };

  /** Each may have left, or changed, while its weights were read. */
  async exchange({ hot, cold, weights }: Exchange<Placed>): Promise<void> {
    if (hot.device !== undefined || !this.here.has(hot)) return;
    if (cold !== undefined) await this.#takeBack(cold);
    await this.#engines.tryDevice(hot.times, { segment: this.#segment, weights, bytes: hot.deviceBytes });
    const made = hot.times.device && (await this.#copy(hot.expert, weights, hot));
    if (made === undefined) return;
    hot.device = made;
    this.on.device.apart?.(-1);
    if (!this.here.has(hot)) await this.#takeBack(hot);
  }

  async #takeBack(placed: Placed): Promise<void> {
    const { device } = placed;
    if (device === undefined) return;
    placed.device = undefined;
    this.#count(placed, -1);
    this.on.device.apart?.(1);
    await device.dispose();
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
  #count({ form, deviceBytes }: Form, change: 1 | -1, slots?: number): { readonly copies: number; readonly slots: number } {
    const { step = 1 } = this.on.device;
    const before = this.#copied.get(form) ?? { copies: 0, slots: 0 };
    const copies = before.copies + change;
    const now = { copies, slots: slots ?? slotsFor(copies, before.slots, step) };
    this.#copied.set(form, now);
    const taken = (now.slots - before.slots) * deviceBytes;
    this.#bytesLeft -= taken;
    this.#engines.bytesLeft -= taken;
    return before;
  }
}

function slotsFor(copies: number, had: number, step: number): number {
  if (copies > had) return had + step;
  if (copies === 0) return 0;
  return copies <= had - 2 * step ? had - step : had;
}

interface Trial {
  readonly segment: Segment;
  readonly weights: Weights;
  /** What an expert takes on the device. */
  readonly bytes: number;
}

class TwoEngines {
  readonly placed = new Map<Compiled, Placed>();
  readonly device: Backend;
  readonly bytesOfLayer: number;
  /** Bytes of the device, for all layers. */
  bytesLeft: number;
  readonly #processor: Backend;
  readonly #queue: ComputeQueue;
  readonly #planted: Times | undefined;
  readonly #hot: HotCopies<Placed> | undefined;
  readonly #times = new Map<string, Times>();

  constructor(device: Backend, processor: Backend, { deviceBytes, layers, times, read }: BesideOptions) {
    this.device = device;
    this.#processor = processor;
    this.#queue = processor.hasPrefillQueue ? "prefill" : "main";
    this.bytesOfLayer = deviceBytes / layers;
    this.bytesLeft = deviceBytes;
    this.#planted = times;
    this.#hot = read && new HotCopies(read);
  }

  createExpertSlab(...of: Parameters<Backend["createExpertSlab"]>): DealtSlab {
    const on = { device: this.device.createExpertSlab(...of), processor: this.#processor.createExpertSlab(...of) };
    return new DealtSlab(this, { segment: of[0], layer: of[2] ?? 0 }, on);
  }

  async runMany(calls: Parameters<Backend["runMany"]>[0]): Promise<readonly Outputs[]> {
    const placed = calls.flatMap(({ program }) => this.placed.get(program) ?? []);
    const [first] = placed;
    if (first === undefined || placed.length < calls.length) return this.device.runMany(calls);
    const rows = calls.map(({ inputs }) => Math.max(1, ...Object.values(inputs).map(({ shape: [count = 1] }) => count)));
    for (const [i, each] of placed.entries()) each.rows += rows[i] as number;
    const due = this.#hot?.next(first.slab);
    if (due) await due.hot.slab.exchange(due);
    const seconds = placed.map((each, i) => secondsOn(each, rows[i] as number));
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

  async timesOf(segment: Segment, weights: Weights, { form, deviceBytes: bytes }: Form): Promise<Times> {
    const key = `${form} ${segment.weights.map(({ shape }) => shape)}`;
    const other = this.#times.size < tablesMax ? undefined : this.#times.values().next().value;
    let times = this.#planted ?? this.#times.get(key) ?? other;
    if (times === undefined) {
      const processor = await timesOn(this.#processor, { segment, weights, queue: this.#queue });
      if (processor === undefined) throw new AppError("no memory to measure an expert on the processor", { code: "OutOfMemory" });
      times = { processor, device: undefined };
      this.#times.set(key, times);
    }
    await this.tryDevice(times, { segment, weights, bytes });
    return times;
  }

  /** Measured with what memory is left: of fewer experts and rows, or another time. A slab that grows is there twice for a moment. */
  async tryDevice(times: Times, { segment, weights, bytes }: Trial): Promise<void> {
    let experts = Math.min(expertsTimed, Math.floor((this.bytesLeft / bytes + 1) / 2));
    for (; times.device === undefined && experts > 0; experts >>= 1)
      times.device = await timesOn(this.device, { segment, weights, experts });
  }
}

function secondsOn({ device, times }: Placed, rows: number): Engines<number> {
  const here = device && times.device ? secondsOf(times.device, rows) : Number.POSITIVE_INFINITY;
  return { device: here, processor: secondsOf(times.processor, rows) };
}

type Measured = Pick<Trial, "segment" | "weights"> & { readonly experts?: number; readonly queue?: ComputeQueue };

/** Undefined where memory is not to be had. */
async function timesOn(backend: Backend, of: Measured): Promise<EngineTimes | undefined> {
  const { segment, weights, experts = expertsTimed, queue } = of;
  const slab = backend.createExpertSlab(segment, experts);
  const programs: Compiled[] = [];
  const { name = "", width = 0 } = segment.inputs[0] ?? {};
  const fits = (work: Promise<unknown>): Promise<boolean> =>
    work.then(
      () => true,
      (caught) => {
        if (isOutOfMemory(caught)) return false;
        throw caught;
      },
    );
  try {
    for (let expert = 0; expert < experts; expert++)
      if (!(await fits(slab.put(expert, weights).then((program) => programs.push(program))))) return undefined;
    const run = (count: number, rows: number): Promise<boolean> => {
      const inputs = { [name]: { shape: [rows, width], data: new Float32Array(rows * width).fill(0.01) } };
      const calls = programs.slice(0, count).map((program) => ({ program, inputs }));
      return fits(backend.runMany(calls, queue));
    };
    return await measureTimes(run, { experts });
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
