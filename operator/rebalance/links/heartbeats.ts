// The heartbeats of one pod on its Control stream. A pod says at least every second how it is; one that may leave that out while it has
// no news shows by bytes on its connection that its process runs, as it answers the pings of HTTP/2. Pure.
import { Silence } from "../../../runtime/net/silence.ts";

export class Heartbeats {
  readonly #statuses: Silence;
  readonly #connection: Silence;
  #bytes = 0;
  #allowedMs = 0;

  /** They are to be looked at every `lookMs`. */
  constructor(lookMs: number, nowMs: number) {
    this.#statuses = new Silence(lookMs, nowMs);
    this.#connection = new Silence(lookMs, nowMs);
  }

  /** A status came. */
  heard(): void {
    this.#statuses.heard();
  }

  /** The pod may leave statuses out for so long; 0 = it may not. */
  allow(ms: number): void {
    this.#allowedMs = ms;
  }

  /** Milliseconds of silence so far: of the connection, or of statuses beyond what is allowed. `bytes`: received on the connection. */
  look(nowMs: number, bytes: number): number {
    if (bytes !== this.#bytes) this.#connection.heard();
    this.#bytes = bytes;
    const [statusSilentMs, silentMs] = [this.#statuses.look(nowMs), this.#connection.look(nowMs)];
    return this.#allowedMs === 0 ? statusSilentMs : Math.max(silentMs, statusSilentMs - this.#allowedMs);
  }
}
