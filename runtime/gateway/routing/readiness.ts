// A gateway is ready when it knows a membership in which a worker takes requests, or when it holds requests.
import type { Membership } from "../../net/mapping.ts";
import type { Health } from "../../observe/health.ts";
import type { Log } from "../../observe/log.ts";
import { textSources } from "./text-sources.ts";
import type { WorkerPool } from "./worker-pool.ts";

/** New requests are refused after this long without a ready worker. */
const unreadyGraceMs = 60_000;

export class Readiness {
  readonly #pool: WorkerPool;
  readonly #health: Health;
  readonly #log: Log;
  #readyUntil = 0;
  #textDigest: string | undefined;

  constructor(pool: WorkerPool, health: Health, log: Log) {
    this.#pool = pool;
    this.#health = health;
    this.#log = log;
  }

  /** The tokenizer is loaded from files with this digest. */
  hasText(digest: string): void {
    this.#textDigest = digest;
    this.#health.ready("text");
  }

  apply(membership: Membership): void {
    this.#compareText(membership);
    const wasReady = this.#pool.serves;
    if (!this.#pool.apply(membership)) return;
    const { serves } = this.#pool;
    const holdMs = this.#pool.holdMs();
    if (serves || holdMs > 0) this.#health.ready("workers");
    else this.#health.notReady("workers", `none of ${membership.members.length} workers is ready`);
    if (wasReady && !serves) this.#readyUntil = performance.now() + unreadyGraceMs;
    const members = membership.members.map(({ rank, state }) => `${rank}:${state}`).join(" ");
    this.#log.info({ version: membership.version, members, ...(holdMs > 0 ? { holdMs } : {}) }, "membership");
  }

  /** Warns if restarted ranks have other files; this process keeps its own. */
  #compareText({ members }: Membership): void {
    const { digest } = textSources(members);
    if (this.#textDigest === undefined || digest === undefined) return;
    if (digest === this.#textDigest) this.#health.ready("text");
    else this.#health.warn("text", "most ranks have another tokenizer or chat template than this gateway; restart the gateways");
  }

  /** Requests still wait for a worker that was lost a moment ago. */
  unavailable(): string | undefined {
    if (this.#pool.serves || this.#pool.holdMs() > 0 || performance.now() < this.#readyUntil) return undefined;
    return this.#health.reasons().find((reason) => reason.startsWith("workers:")) ?? "none is ready";
  }
}
