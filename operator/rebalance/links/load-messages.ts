// Load messages as they come, and the NATS connections of all deployments, one bus per server and credentials. Messages without a valid
// signature are refused here.
import { AppError } from "../../../crds/common.ts";
import { decodeLoad, type LoadWindow, loadSubject } from "../../../crds/telemetry.ts";
import type { TelemetryKeys } from "../../../crds/telemetry-keys.ts";
import { openLoad, type SignatureFault } from "../../../runtime/net/load-signature.ts";
import type { Ref } from "../../kube/kube.ts";
import type { LoadWindows } from "../../planner/load/windows.ts";
import type { BusStatus, LoadBus, LoadBusOptions, OpenBus } from "../ports.ts";

type HeadRefusal = NonNullable<ReturnType<LoadWindows["refusal"]>> | "rate";
export type IntakeRefusal = "malformed" | SignatureFault | HeadRefusal;

export interface Listener {
  /** The current keys; undefined refuses every message. */
  keys(): TelemetryKeys | undefined;
  /** Why a message is not worth its signature; undefined: it is. It may be forged, so that this advances no order. */
  unwanted(body: Uint8Array): HeadRefusal | undefined;
  take(window: LoadWindow): void;
  refused(reason: IntakeRefusal): void;
}

export interface Subscription {
  readonly status: BusStatus;
  close(): void;
}

export class Telemetry {
  readonly #open: OpenBus;
  readonly #buses = new Map<string, { readonly bus: LoadBus; users: number }>();

  constructor(open: OpenBus) {
    this.#open = open;
  }

  subscribe(ref: Ref, prefix: string, options: LoadBusOptions, listener: Listener): Subscription {
    const key = JSON.stringify([options.url, options.credentials]);
    let entry = this.#buses.get(key);
    if (!entry) {
      entry = { bus: this.#open(options), users: 0 };
      this.#buses.set(key, entry);
    }
    entry.users++;
    const { bus } = entry;
    const stop = bus.subscribe(loadSubject(prefix, ref.namespace, ref.name, "*"), (bytes) => receive(bytes, listener));
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

  /** True when every wanted bus is connected; false while none is wanted. */
  get connected(): boolean {
    return this.#buses.size > 0 && [...this.#buses.values()].every(({ bus }) => bus.status.connected);
  }

  #leave(key: string): void {
    const entry = this.#buses.get(key);
    if (!entry || --entry.users > 0) return;
    this.#buses.delete(key);
    void entry.bus.close();
  }

  async close(): Promise<void> {
    const open = [...this.#buses.values()];
    this.#buses.clear();
    await Promise.all(open.map(({ bus }) => bus.close()));
  }
}

export function receive(bytes: Uint8Array, listener: Listener): void {
  const opened = openLoad(bytes, listener.keys(), (body) => listener.unwanted(body));
  const window = opened.ok ? decoded(opened.body) : undefined;
  if (window) listener.take(window);
  else listener.refused(opened.ok ? "malformed" : opened.reason);
}

function decoded(body: Uint8Array): LoadWindow | undefined {
  try {
    return decodeLoad(body);
  } catch (caught) {
    if (!(caught instanceof AppError)) throw caught;
    return undefined;
  }
}

const kindsMax = 4;
const known = new WeakMap<object, Float64Array[]>();

/** The same values, in an existing array if there is one. `owner` is common to all links of a deployment. */
export function sharedBytes(owner: object, values: Float64Array): Float64Array {
  const kinds = known.get(owner) ?? [];
  const same = kinds.find((kind) => kind.length === values.length && kind.every((value, i) => value === values[i]));
  if (same) return same;
  known.set(owner, [values, ...kinds].slice(0, kindsMax));
  return values;
}
