// Production connections and retries for engines that are doubles.
import type { EngineConnections, EngineInfo, EngineOptions, PeerCounts, RemoteFrame } from "../../../runtime/engine/api.ts";
import type { AskedBatch } from "../../../runtime/engine/pass/expert-table.ts";
import type { FrameWays } from "../../../runtime/engine/rows/frame-run.ts";
import { Outbound } from "../../../runtime/engine/rows/outbound.ts";
import { PeerConnections, type RowsNetwork } from "../../../runtime/engine/rows/peer-connections.ts";

interface RowsOptions {
  readonly info: EngineInfo;
  readonly serve: (batch: AskedBatch) => Promise<Float32Array>;
  readonly onDemand: EngineOptions["onDemand"];
  readonly network?: RowsNetwork;
  readonly loads?: FrameWays["loads"];
}

export class EngineRows implements EngineConnections {
  readonly outbound: Outbound;
  readonly #peers: PeerConnections;
  #onCounts: (counts: PeerCounts) => void = () => {};

  constructor({ info, serve, onDemand, loads, ...network }: RowsOptions) {
    const ways = { serve, onDemand: onDemand.run.bind(onDemand), loads };
    const model = { info, backend: { numericClass: "exact" } } as const;
    const report = (counts: PeerCounts) => this.#onCounts(counts);
    this.#peers = new PeerConnections({ model, ...ways, ...network, onFrames: () => {}, report });
    this.outbound = new Outbound({ connections: this.#peers, ...ways });
  }

  open: EngineConnections["open"] = (opening, onCounts) => {
    this.#onCounts = onCounts;
    return this.#peers.open(opening);
  };
  set: EngineConnections["set"] = async (view) => this.#peers.set(view);

  /** Rows of pairs, as exact engines exchange them. */
  rows(frame: RemoteFrame): Promise<Float32Array> {
    return this.outbound.dispatch(frame, () => new Float32Array(0)) as Promise<Float32Array>;
  }

  close(): void {
    this.#peers.close();
  }
}
