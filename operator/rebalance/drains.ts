// The last steps of a rank that leaves: its experts are moved by plans (intent.ts); when none depends on it any more it is
// told to finish its requests, and reported Drained when it has, or when its time is up. Shell: one call per drain.
import type { DrainView, LeavingRank } from "../deployment/ports.ts";
import type { RankView } from "./members.ts";

interface Drain {
  phase: DrainView["phase"];
  since: number;
  told: boolean;
}

export class Drains {
  private readonly drains = new Map<string, Drain>();
  /** Ranks whose experts the others cannot take, and why; cleared when members change. */
  readonly blocked = new Map<number, string>();

  step(views: readonly RankView[], leaving: readonly LeavingRank[], planned: ReadonlySet<number>, drainMs: number, now: number): void {
    for (const uid of this.drains.keys()) {
      if (leaving.some((rank) => rank.podUid === uid)) continue;
      this.drains.delete(uid);
      const view = views.find((v) => v.pod.uid === uid);
      // Taken back: the rank serves on. A failed call leaves it draining, and its status says so.
      void view?.link?.drain(true).catch(() => {});
    }
    for (const rank of leaving) {
      const drain = this.drains.get(rank.podUid) ?? { phase: "Moving" as const, since: now, told: false };
      this.drains.set(rank.podUid, drain);
      this.advance(
        drain,
        rank,
        views.find((v) => v.pod.uid === rank.podUid),
        planned,
        drainMs,
        now,
      );
    }
  }

  private advance(
    drain: Drain,
    rank: LeavingRank,
    view: RankView | undefined,
    planned: ReadonlySet<number>,
    drainMs: number,
    now: number,
  ): void {
    if (!view || view.lost) {
      drain.phase = "Drained";
      return;
    }
    if (rank.reason !== "Stop" && planned.has(rank.rank)) {
      drain.phase = this.blocked.has(rank.rank) ? "Blocked" : "Moving";
      drain.since = now;
      return;
    }
    if (!drain.told) {
      drain.told = true;
      drain.phase = "Draining";
      drain.since = now;
      void view.link?.drain(false).catch(() => {
        drain.told = false; // asked again in the next step
      });
      return;
    }
    const status = view.link?.status;
    const finished = status?.draining === true && status.activeRequests === 0;
    if (finished || now - drain.since > drainMs || !view.usable) drain.phase = "Drained";
  }

  view(leaving: readonly LeavingRank[]): DrainView[] {
    return leaving.map((rank) => {
      const phase = this.drains.get(rank.podUid)?.phase ?? "Moving";
      return { rank: rank.rank, podUid: rank.podUid, phase, message: phase === "Blocked" ? (this.blocked.get(rank.rank) ?? "") : "" };
    });
  }
}
