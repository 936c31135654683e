// Answers frames of other ranks. It refuses one before any work when its format or epoch is wrong.
import { AppError } from "../../../crds/common.ts";
import { decodeHalfRows, encodeHalfRows, halfRowBytes, type RowsAnswer, type RowsFrame } from "../../net/rows-codec.ts";
import { frameFault } from "../../placement/frames/frames.ts";
import { missingExperts } from "../../placement/frames/not-hosted.ts";
import type { ExpertGrid } from "../../placement/grid.ts";
import { bytesOf, viewF32 } from "../../weights/floats.ts";
import type { OnDemandFrame, PeerView } from "../api.ts";
import { sumPairs } from "../pass/combine.ts";
import type { AskedBatch } from "../pass/expert-table.ts";
import { loadWaitMs } from "./attempts.ts";
import { beginSpan } from "./frame-spans.ts";
import type { PeerCounters } from "./peer-counters.ts";

const noEpoch = -1;

export interface RowsServerOptions {
  readonly model: ExpertGrid & { readonly hidden: number };
  readonly view: () => PeerView;
  /** Rejects with `NotHosted` where an expert is missing. */
  readonly serve: (batch: AskedBatch) => Promise<Float32Array>;
  readonly onDemand: (frame: OnDemandFrame) => Promise<Float32Array>;
  /** True for experts that this rank loads when rows choose them; unset: none. */
  readonly loads?: ((layer: number, experts: readonly number[]) => boolean) | undefined;
  /** Called once for all frames that arrived together. */
  readonly onFrames: () => void;
  readonly counters: PeerCounters;
}

export class RowsServer {
  /** The time of the newest frame. */
  frameAt = Number.NEGATIVE_INFINITY;
  readonly #options: RowsServerOptions;
  #announced = false;

  constructor(options: RowsServerOptions) {
    this.#options = options;
  }

  async answer(frame: RowsFrame, bytes: Uint8Array, from: number): Promise<RowsAnswer> {
    if (frame.traceparent === undefined) return this.#counted(frame, bytes, from);
    const attributes = { "enodia.layer": frame.layer, "enodia.pairs": frame.pairExperts.length };
    const { end } = beginSpan(frame.traceparent, { name: "experts.serve", role: "server", attributes });
    const { counters } = this.#options;
    try {
      const answer = await this.#counted(frame, bytes, from);
      counters.span(end({ "enodia.result": answer instanceof Uint8Array ? "rows" : answer.type }));
      return answer;
    } catch (caught) {
      counters.span(end({ "enodia.result": "error" }, AppError.from(caught).message));
      throw caught;
    }
  }

  async #counted(frame: RowsFrame, bytes: Uint8Array, from: number): Promise<RowsAnswer> {
    const { counters } = this.#options;
    const answer = await this.#answer(frame, bytes, from).catch((caught) => {
      counters.refused("error");
      counters.problem(`a frame of layer ${frame.layer} failed: ${AppError.from(caught).message}`);
      throw caught;
    });
    if (answer instanceof Uint8Array) counters.served(frame.layer, frame.pairExperts);
    else counters.refused(answer.type === "notHosted" ? "not_hosted" : answer.type);
    return answer;
  }

  async #answer(frame: RowsFrame, bytes: Uint8Array, from: number): Promise<RowsAnswer> {
    const { model, view } = this.#options;
    const { layer, pairRows, pairExperts, gates } = frame;
    const { hidden } = model;
    const rowBytes = gates ? (bytes.byteLength / halfRowBytes(hidden)) * hidden * 4 : bytes.byteLength;
    const fault = frameFault({ layer, hidden, rowBytes, pairRows, pairExperts }, model);
    if (fault !== undefined) return { type: "rejected", reason: fault };
    const { serves, epochs } = view();
    const lacks = (experts: Iterable<number>): RowsAnswer => ({
      type: "notHosted",
      epoch: epochs[layer] ?? 0,
      experts: [...new Set(experts)],
    });
    const lowest = serves[layer] ?? noEpoch;
    // A restarted rank without a plan still serves a sender that has no other host.
    if (lowest === noEpoch ? !frame.onDemand : frame.epoch < lowest) return lacks(pairExperts);
    this.frameAt = performance.now();
    this.#announce();
    try {
      return await this.#rows(frame, gates ? decodeHalfRows(bytes, hidden) : viewF32(bytes), from);
    } catch (caught) {
      const missing = missingExperts(caught);
      if (missing.length > 0) return lacks(missing);
      const waitsForLoads = frame.onDemand || this.#options.loads !== undefined;
      if (AppError.from(caught).code === "Busy") return { type: "busy", afterMs: waitsForLoads ? loadWaitMs : 0 };
      throw caught;
    }
  }

  async #rows(frame: RowsFrame, rows: Float32Array, from: number): Promise<Uint8Array> {
    const { hidden } = this.#options.model;
    const { pairRows, gates } = frame;
    const computed = await this.#compute(frame, rows, from);
    if (gates === undefined) return bytesOf(computed);
    return encodeHalfRows(sumPairs(computed, { pairRows, gates }, rows.length / hidden, hidden), hidden);
  }

  async #compute(
    { layer, epoch, decode, pairRows, pairExperts, onDemand }: RowsFrame,
    rows: Float32Array,
    from: number,
  ): Promise<Float32Array> {
    const batch: AskedBatch = { origin: "remote", from, layer, phase: decode ? "decode" : "prefill", rows, pairRows, pairExperts };
    try {
      return await this.#options.serve(batch);
    } catch (caught) {
      const missing = missingExperts(caught);
      if (missing.length === 0 || !(onDemand || this.#options.loads?.(layer, missing))) throw caught;
      const { rank } = this.#options.view().self;
      return this.#options.onDemand({ ...batch, epoch, rank });
    }
  }

  #announce(): void {
    if (this.#announced) return;
    this.#announced = true;
    setImmediate(() => {
      this.#announced = false;
      this.#options.onFrames();
    });
  }
}
