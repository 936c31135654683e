// NATS as a simulated cluster has it: what workers publish reaches whoever has subscribed, while it is there.
import type { BusStatus, LoadBus } from "../../operator/rebalance/ports.ts";
import type { Bus } from "../../runtime/net/nats.ts";
import { asOwner, type Owner } from "./clock.ts";

type Handler = (bytes: Uint8Array, subject: string) => void;

export class SimBus {
  /** The status that the operator reads; changed from outside. */
  status: BusStatus & { connected: boolean } = { connected: true, reason: "Connected" };
  /** It takes what is published and brings it to nobody. */
  silent = false;
  readonly #handlers = new Map<Handler, Owner | undefined>();

  /** The operator's end. */
  open(owner: Owner | undefined): LoadBus {
    const own = new Set<Handler>();
    const bus = this;
    return {
      get status() {
        return bus.status;
      },
      subscribe: (_subject, handler) => {
        own.add(handler);
        this.#handlers.set(handler, owner);
        return () => this.#handlers.delete(handler);
      },
      close: async () => {
        for (const handler of own) this.#handlers.delete(handler);
      },
    };
  }

  /** A worker's end. */
  publisher(): Bus {
    const bus = this;
    const publish = (subject: string, payload: string | Uint8Array): boolean => {
      if (!this.status.connected) return false;
      const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
      for (const [handler, owner] of this.#handlers) if (!this.silent && !owner?.dead) asOwner(owner, () => handler(bytes, subject));
      return true;
    };
    return {
      get status() {
        return bus.status;
      },
      ...{ dropped: 0, publish, subscribe: () => () => {}, onStatus: () => () => {}, close: async () => {} },
    };
  }
}
