// The load messages of one deployment: subscribed to where its spec says, handed to its balance, counted, and how old they are.
import type { LoadWindow } from "../../../crds/telemetry.ts";
import type { ExpectedRank } from "../../planner/load/windows.ts";
import type { LoopPorts, Observed } from "../loop-ports.ts";
import type { TelemetryFacts } from "../status/view.ts";
import type { Subscription } from "./telemetry.ts";

export interface IntakeParts {
  readonly ports: Pick<LoopPorts, "clock" | "metrics" | "natsUrl" | "telemetry">;
  readonly seen: Observed;
  /** Ranks that should report. */
  readonly expected: () => readonly ExpectedRank[];
}

export class Intake {
  private readonly parts: IntakeParts;
  private open: { readonly key: string; readonly subscription: Subscription } | undefined;

  constructor(parts: IntakeParts) {
    this.parts = parts;
  }

  /** Follows the spec: another server, prefix or Secret is another subscription, no server none. */
  listen(): void {
    const { ports, seen } = this.parts;
    const { ref, spec } = seen.world;
    const url = ports.natsUrl(spec);
    const key = JSON.stringify([url, spec.telemetry.nats]);
    if (this.open?.key === key) return;
    this.close();
    if (!url) return;
    const { credentialsSecretRef, subjectPrefix } = spec.telemetry.nats;
    const secret = credentialsSecretRef && { namespace: ref.namespace, name: credentialsSecretRef.name };
    const subscription = ports.telemetry.subscribe(ref, subjectPrefix, { url, secret }, (window) => this.receive(window));
    this.open = { key, subscription };
  }

  private receive(window: LoadWindow): void {
    const { ports, seen, expected } = this.parts;
    const { namespace, name: deployment } = seen.world.ref;
    const accepted = seen.balance?.accept(window, expected(), ports.clock.now()) ?? {
      ok: false as const,
      reason: "unknown_deployment" as const,
    };
    if (accepted.ok) ports.metrics.add("enodia_telemetry_samples_total", 1, { namespace, deployment });
    else ports.metrics.add("enodia_telemetry_dropped_total", 1, { reason: accepted.reason });
  }

  get connected(): boolean {
    return this.open?.subscription.status.connected ?? false;
  }

  /** Of the oldest last message of a rank that should report; undefined where no NATS server is named: nothing can be stale. */
  ageMs(): number | undefined {
    const { ports, seen, expected } = this.parts;
    if (!ports.natsUrl(seen.world.spec)) return undefined;
    return seen.balance?.ageMs(expected(), ports.clock.now()) ?? 0;
  }

  facts(now: number, staleAfterMs: number): TelemetryFacts {
    const { ports, seen } = this.parts;
    const expected = this.parts.expected();
    const book = seen.balance?.book;
    return {
      bus: ports.natsUrl(seen.world.spec) ? (this.open?.subscription.status ?? { connected: false, reason: "Connecting" }) : undefined,
      ageMs: book?.ageMs(expected, now) ?? Number.POSITIVE_INFINITY,
      staleAfterMs,
      reporting: book?.reporting(expected, now, staleAfterMs) ?? 0,
      expected: expected.length,
      lastSampleMs: book?.lastSampleMs() ?? 0,
    };
  }

  close(): void {
    this.open?.subscription.close();
    this.open = undefined;
  }
}
