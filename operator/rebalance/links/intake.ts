// Takes one deployment's load messages, from NATS as the spec says and from Control streams, passes them to the load state, and counts
// them. One that comes both ways counts once, by its number.
import { type LoadWindow, loadHead } from "../../../crds/telemetry.ts";
import type { World } from "../../deployment/ports.ts";
import type { ExpectedRank } from "../../planner/load/windows.ts";
import type { LoadState } from "../load/load-state.ts";
import type { LoopPorts } from "../loop-ports.ts";
import type { TelemetryFacts } from "../observed.ts";
import { type IntakeRefusal, type Listener, receive, type Subscription } from "./load-messages.ts";
import type { Quota } from "./quota.ts";

type IntakePorts = Pick<LoopPorts, "clock" | "metrics" | "nats" | "telemetry" | "telemetryKeys"> & { readonly quota: Quota };
type Refusal = IntakeRefusal | Extract<ReturnType<LoadState["accept"]>, { readonly ok: false }>["reason"];

export interface Listening {
  readonly world: World;
  readonly expected: readonly ExpectedRank[];
  readonly load: LoadState | undefined;
}

export class Intake {
  readonly #ports: IntakePorts;
  readonly #onControl = this.#listener(false);
  #open: { readonly key: string; readonly subscription: Subscription; readonly since: number } | undefined;
  /** Unix ms of each rank's last message on NATS, also where it had come before. */
  readonly #onNats = new Map<number, number>();
  #listening: Listening | undefined;
  /** Unix ms since when each rank is expected, whatever its boots. */
  readonly #since = new Map<number, number>();
  #refused: { readonly reason: Refusal; readonly at: number } | undefined;

  constructor(ports: IntakePorts) {
    this.#ports = ports;
  }

  /** Follows the spec: another server, prefix or Secret is a new subscription; without a server there is none. */
  listen(listening: Listening): void {
    this.#listening = listening;
    const ranks = new Set(listening.expected.map(({ rank }) => rank));
    for (const known of this.#since.keys()) if (!ranks.has(known)) this.#since.delete(known);
    for (const rank of ranks) if (!this.#since.has(rank)) this.#since.set(rank, this.#ports.clock.now());
    const { ref, spec } = listening.world;
    const server = this.#ports.nats(ref, spec);
    const key = JSON.stringify([server, spec.telemetry.nats]);
    if (this.#open?.key === key) return;
    this.close();
    if (!server) return;
    const subscription = this.#ports.telemetry.subscribe(ref, spec.telemetry.nats.subjectPrefix, server, this.#listener(true));
    this.#open = { key, subscription, since: this.#ports.clock.now() };
  }

  /** A message that came on a Control stream. */
  take(message: Uint8Array): void {
    receive(message, this.#onControl);
  }

  #listener(onNats: boolean): Listener {
    const heard = (rank: number) => onNats && this.#onNats.set(rank, this.#ports.clock.now());
    return {
      keys: () => this.#keys().keys,
      unwanted: (body) => {
        const head = loadHead(body);
        const refused = this.#unwanted(head) ?? (onNats && !this.#ports.quota.take(body.byteLength) ? "rate" : undefined);
        if (head && refused === "duplicate") heard(head.rank);
        return refused;
      },
      take: (window) => {
        heard(window.rank);
        this.#receive(window);
      },
      refused: (reason) => this.#refuse(reason),
    };
  }

  #unwanted(head: ReturnType<typeof loadHead>): ReturnType<Listener["unwanted"]> {
    const { load, expected = [] } = this.#listening ?? {};
    if (!load) return "unknown_deployment";
    return head && load.windows.refusal(head, expected);
  }

  #receive(window: LoadWindow): void {
    const { metrics, clock } = this.#ports;
    const { load, expected = [], world } = this.#listening ?? {};
    const accepted = load?.accept(window, expected, clock.now()) ?? { ok: false as const, reason: "unknown_deployment" as const };
    if (!accepted.ok) this.#refuse(accepted.reason);
    else if (world) metrics.add("enodia_telemetry_samples_total", 1, { namespace: world.ref.namespace, deployment: world.ref.name });
  }

  #refuse(reason: Refusal): void {
    this.#refused = { reason, at: this.#ports.clock.now() };
    this.#ports.metrics.add("enodia_telemetry_dropped_total", 1, { reason });
  }

  #keys(): ReturnType<LoopPorts["telemetryKeys"]> {
    const world = this.#listening?.world;
    return world ? this.#ports.telemetryKeys(world.ref, world.uid) : {};
  }

  /** False where NATS is away, or has not brought this rank's load for so long. */
  hearsOnNats(rank: number, now: number, staleAfterMs: number): boolean {
    const { subscription, since = Number.NEGATIVE_INFINITY } = this.#open ?? {};
    return subscription?.status.connected === true && now - Math.max(since, this.#onNats.get(rank) ?? since) <= staleAfterMs;
  }

  /** The age of the oldest last message of the expected ranks; undefined without a NATS server until a first one came. */
  ageMs({ ref, spec }: World): number | undefined {
    const { load, expected = [] } = this.#listening ?? {};
    if (!this.#ports.nats(ref, spec) && !load?.windows.lastSampleMs()) return undefined;
    return load?.ageMs(expected, this.#ports.clock.now()) ?? 0;
  }

  facts({ world, expected, load }: Listening, now: number, staleAfterMs: number): TelemetryFacts {
    const named = this.#ports.nats(world.ref, world.spec) !== undefined;
    const windows = load?.windows;
    const isNew = ({ rank }: ExpectedRank): boolean => now - (this.#since.get(rank) ?? now) <= staleAfterMs;
    return {
      bus: named ? (this.#open?.subscription.status ?? { connected: false, reason: "Connecting" }) : undefined,
      ageMs: windows?.ageMs(expected, now) ?? Number.POSITIVE_INFINITY,
      staleAfterMs,
      reporting: windows?.reporting(expected, now, staleAfterMs) ?? 0,
      expected: expected.length,
      joining: expected.filter((one) => isNew(one) && !windows?.reporting([one], now, staleAfterMs)).length,
      lastSampleMs: windows?.lastSampleMs() ?? 0,
      onNats: expected.filter(({ rank }) => this.hearsOnNats(rank, now, staleAfterMs)).length,
      keyProblem: this.#ports.telemetryKeys(world.ref, world.uid).problem,
      refused: this.#refused && now - this.#refused.at <= staleAfterMs ? this.#refused.reason : undefined,
      overQuota: this.#ports.quota.wasOver(staleAfterMs),
    };
  }

  close(): void {
    this.#open?.subscription.close();
    this.#open = undefined;
  }
}
