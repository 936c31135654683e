// The NATS connections of all deployments: one bus per server and credentials, shared by those that name it and opened in the
// background, so that nothing waits for NATS. Malformed messages are counted and dropped; intake.ts takes the others of its deployment.
import { AppError } from "../../../crds/common.ts";
import { decodeLoad, type LoadWindow, loadMessageBytesMax, loadSubject } from "../../../crds/telemetry.ts";
import type { Ref } from "../../kube/kube.ts";
import type { BusStatus, LoadBus, LoadBusOptions, OpenBus } from "../ports.ts";

export type IntakeRefusal = "malformed" | "too_large";

export interface Subscription {
  readonly status: BusStatus;
  close(): void;
}

export class Telemetry {
  readonly #open: OpenBus;
  readonly #onRefused: (reason: IntakeRefusal) => void;
  readonly #buses = new Map<string, { readonly bus: LoadBus; users: number }>();

  constructor(open: OpenBus, onRefused: (reason: IntakeRefusal) => void) {
    this.#open = open;
    this.#onRefused = onRefused;
  }

  subscribe(ref: Ref, prefix: string, options: LoadBusOptions, onWindow: (window: LoadWindow) => void): Subscription {
    const key = JSON.stringify([options.url, options.secret]);
    let entry = this.#buses.get(key);
    if (!entry) {
      entry = { bus: this.#open(options), users: 0 };
      this.#buses.set(key, entry);
    }
    entry.users++;
    const { bus } = entry;
    const stop = bus.subscribe(loadSubject(prefix, ref.namespace, ref.name, "*"), (bytes) => this.#receive(bytes, onWindow));
    let closed = false;
    return {
      get status() {
        return bus.status;
      },
      close: () => {
        if (closed) return;
        closed = true;
        stop();
        this.#leave(key);
      },
    };
  }

  /** True when every bus that is wanted is connected; false while none is wanted. */
  get connected(): boolean {
    return this.#buses.size > 0 && [...this.#buses.values()].every(({ bus }) => bus.status.connected);
  }

  #leave(key: string): void {
    const entry = this.#buses.get(key);
    if (!entry || --entry.users > 0) return;
    this.#buses.delete(key);
    void entry.bus.close();
  }

  #receive(bytes: Uint8Array, onWindow: (window: LoadWindow) => void): void {
    let window: LoadWindow;
    try {
      window = decodeLoad(bytes);
    } catch (caught) {
      if (!(caught instanceof AppError)) throw caught;
      this.#onRefused(bytes.byteLength > loadMessageBytesMax ? "too_large" : "malformed");
      return;
    }
    onWindow(window);
  }

  async close(): Promise<void> {
    const open = [...this.#buses.values()];
    this.#buses.clear();
    await Promise.all(open.map(({ bus }) => bus.close()));
  }
}
