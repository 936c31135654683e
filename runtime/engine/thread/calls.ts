// The main thread's calls to the engine thread.
import { setImmediate as macrotask } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import { createRouter, type Router } from "../../placement/dispatch.ts";
import type { EngineStats, LoadCounters, RoutingTables } from "../api.ts";
import type { ExpertTable } from "../pass/expert-table.ts";
import type { FrameInbox } from "../pass/frame-inbox.ts";
import type { StepTools } from "../pass/step-tools.ts";
import type { Outbound } from "../rows/outbound.ts";
import type { PeerConnections } from "../rows/peer-connections.ts";
import type { Batcher } from "../schedule/batch.ts";
import type { KvOffload } from "./kv-offload.ts";
import type { KvTransfers } from "./kv-transfers.ts";
import type { StepBoundary } from "./mailbox.ts";
import { type CallMessage, type FromEngine, toPlain } from "./messages.ts";
import type { OnDemandCalls } from "./on-demand.ts";
import type { Requests } from "./requests.ts";
import type { Steps } from "./steps.ts";

export class Routing {
  rank = -1;
  table: Router = createRouter(-1);
  #down: ReadonlySet<number> = new Set();

  set({ rank, layers }: RoutingTables): void {
    if (rank !== this.rank) {
      this.rank = rank;
      this.table = createRouter(rank);
    }
    this.table.setDown(this.#down);
    this.table.setTables(layers);
  }

  setDown(ranks: readonly number[]): void {
    this.#down = new Set(ranks);
    this.table.setDown(this.#down);
  }
}

interface Parts {
  readonly batcher: Batcher;
  readonly boundary: StepBoundary;
  readonly experts: ExpertTable;
  readonly inbox: FrameInbox;
  readonly connections: PeerConnections;
  readonly outbound: Outbound;
  readonly onDemand: OnDemandCalls;
  readonly requests: Requests;
  readonly routing: Routing;
  readonly steps: Steps;
  readonly transfers: KvTransfers;
  readonly offload: Pick<KvOffload, "stats"> | undefined;
  readonly measured: Pick<StepTools, "counter" | "times">;
  readonly send: (message: FromEngine, transfer?: ArrayBuffer[]) => void;
}

export class Calls {
  closing = false;
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async answer(message: CallMessage): Promise<void> {
    const { send } = this.#parts;
    try {
      const result = await this.#call(message);
      const moved = result instanceof Float32Array || result instanceof Uint8Array ? [result.buffer as ArrayBuffer] : [];
      send({ type: "answer", id: message.id, result }, moved);
    } catch (caught) {
      send({ type: "failed", id: message.id, error: toPlain(caught) });
    }
  }

  async #call(message: CallMessage): Promise<unknown> {
    const { boundary, experts, inbox, connections, outbound, requests, routing, transfers } = this.#parts;
    switch (message.method) {
      case "runExperts":
        return inbox.serve(message.argument);
      case "loadExpert":
        await macrotask(); // to take pages for it is too long between two layers
        return experts.load(message.argument.layer, message.argument.expert, message.argument.unit);
      case "unloadExpert":
        await macrotask();
        return experts.unload(message.argument.layer, message.argument.expert);
      case "setRouting":
        outbound.setRouting(message.argument);
        return boundary.atStepEnd(() => routing.set(message.argument));
      case "setDown":
        return routing.setDown(message.argument);
      case "openConnections":
        return connections.open(message.argument);
      case "setPeers":
        return connections.set(message.argument);
      case "counters":
        return this.#counters();
      case "stats":
        return this.#stats();
      case "drain":
        return requests.drain(message.argument);
      case "lookKv":
        return transfers.look(message.argument);
      case "readKv":
        return transfers.read(message.argument);
      case "writeKv":
        return transfers.write(message.argument);
      case "close":
        return this.#close();
    }
  }

  #counters(): LoadCounters {
    const { counter, times } = this.#parts.measured;
    const { prefill, decode } = counter.take();
    const seconds = times.take();
    return {
      prefill: { ...prefill, seconds: seconds.prefill },
      decode: { ...decode, seconds: seconds.decode },
    };
  }

  #stats(): EngineStats {
    const { batcher, experts, measured, offload, requests, steps } = this.#parts;
    const { slotsUsed, slotsKept, blocksUsed, blocksKept, preemptions, swappedTokens, drafts, queued } = batcher;
    return {
      ...steps.takeStats(),
      ...{ slotsUsed, slotsKept, blocksUsed, blocksKept, preemptions, ...drafts },
      kvHost: offload && { ...offload.stats, swappedTokens },
      cachedTokens: requests.cachedTokens,
      queuedRequests: queued,
      hostedExperts: experts.count,
      expertRuns: measured.counter.runs,
      rowsFor: measured.counter.rowsFor,
    };
  }

  #close(): Promise<void> {
    const { boundary, connections, onDemand, outbound } = this.#parts;
    const stopped = new AppError("engine: closing", { code: "EngineStopped", retry: "backoff" });
    outbound.fail(stopped);
    onDemand.fail(stopped);
    connections.close(); // ends a step that waits for a peer
    return boundary.atStepEnd(() => {
      this.closing = true;
    });
  }
}
