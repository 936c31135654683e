// A count of the load that workers of a deployment report on NATS, made by the test itself: the imbalance of the rows that ranks
// computed, over the time and the number of selections that a test asks for, whatever the operator makes of them.
import { AppError } from "../../crds/common.ts";
import { decodeLoad, type LoadWindow, loadSubject } from "../../crds/telemetry.ts";
import { decodeTelemetryKeys, type TelemetryKeys, telemetrySecretEntries, telemetrySecretName } from "../../crds/telemetry-keys.ts";
import { openLoad } from "../../runtime/net/load-signature.ts";
import { type Bus, createBus } from "../../runtime/net/nats.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { kubectlOf, systemNamespace, type Target } from "../kit/deployment/product.ts";
import type { Deployed } from "./world.ts";

const natsPort = 4222;

/** The chart's NATS, from this machine, as the user of a deployment. */
export async function openBus({ target, kubectl, name: deployment }: Deployed, name: string): Promise<Bus> {
  const access = async () => {
    const { data } = await kubectl.get("secret", telemetrySecretName(deployment));
    return { credentials: Buffer.from(data["user.creds"], "base64").toString() };
  };
  return createBus({ url: await natsUrl(target), name, access });
}

export async function natsUrl(target: Target): Promise<string> {
  const [nats] = await kubectlOf(target, systemNamespace).list("pods", "app.kubernetes.io/component=nats");
  return `nats://${nats?.status.podIP}:${natsPort}`;
}

/** The keys that sign the load messages of a deployment, newest first. */
export async function telemetryKeys({ kubectl, name }: Pick<Deployed, "kubectl" | "name">): Promise<TelemetryKeys> {
  const { data } = await kubectl.get("secret", telemetrySecretName(name));
  return decodeTelemetryKeys(Buffer.from(data[telemetrySecretEntries.keys], "base64").toString());
}

/** The load that a message tells of, if it is genuine. */
export function readLoad(bytes: Uint8Array, keys: TelemetryKeys): LoadWindow {
  const opened = openLoad(bytes, keys);
  if (!opened.ok) throw new AppError(`a load message is ${opened.reason}`, { code: "InvalidTelemetry" });
  return decodeLoad(opened.body);
}

export interface Served {
  /** Rows computed, of the layer with fewest. */
  readonly selections: number;
  /** max/mean over the ranks, of the worst layer; 1 = even. */
  readonly worst: number;
}

/** Ranks send their windows in turn, and end them at the same times but for a few milliseconds. */
function toldByAll(windows: readonly LoadWindow[]): number {
  const newest = new Map(windows.map((window) => [window.rank, window]));
  return Math.min(...[...newest.values()].map(({ windowStart, windowEnd }) => windowEnd + (windowEnd - windowStart) / 2));
}

export class LoadWatch {
  readonly #windows: LoadWindow[] = [];
  readonly #bus: Bus;

  private constructor(bus: Bus, { namespace, name }: Deployed, keys: TelemetryKeys) {
    this.#bus = bus;
    bus.subscribe(loadSubject("enodia", namespace, name, "*"), (bytes) => void this.#windows.push(readLoad(bytes, keys)));
  }

  static async open(deployed: Deployed): Promise<LoadWatch> {
    return new LoadWatch(await openBus(deployed, "load-watch"), deployed, await telemetryKeys(deployed));
  }

  /** Counts the workers' windows that lie between two moments (unix ms); without the second, those that every rank has told of. */
  served(from: number, to?: number): Served {
    const since = this.#windows.filter(({ windowStart }) => windowStart >= from);
    const end = to ?? toldByAll(since);
    const windows = since.filter(({ windowEnd }) => windowEnd <= end);
    const ranks = [...new Set(windows.map(({ rank }) => rank))];
    const [{ layers, experts } = { layers: 0, experts: 0 }] = windows;
    const rows = Array.from({ length: layers }, () => new Float64Array(ranks.length));
    for (const { rank, served } of windows) {
      for (const [layer, load] of rows.entries()) {
        const g = ranks.indexOf(rank);
        for (let e = 0; e < experts; e++) load[g] = (load[g] as number) + (served[layer * experts + e] as number);
      }
    }
    const even = new Float64Array(ranks.length).fill(1);
    return {
      selections: Math.min(...(layers > 0 ? rows.map((load) => load.reduce((a, b) => a + b, 0)) : [0])),
      worst: Math.max(1, ...rows.map((load) => imbalance(load, even))),
    };
  }

  async close(): Promise<void> {
    await this.#bus.close();
  }
}
