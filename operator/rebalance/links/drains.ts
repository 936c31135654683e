// The last steps of a leaving rank: once no expert depends on it, it is asked to finish its requests, and reported Drained when it has
// or its time is up.
import type { DrainView, LeavingRank } from "../../deployment/ports.ts";
import type { RankView } from "../observed.ts";

const askMs = 1_000;

interface DrainFacts {
  readonly leaving: LeavingRank;
  readonly view: RankView | undefined;
  readonly planned: boolean;
  readonly blocked: boolean;
  readonly emptyMs: number;
  readonly drainMs: number;
}

export interface DrainStep {
  readonly views: readonly RankView[];
  readonly leaving: readonly LeavingRank[];
  readonly planned: (rank: number) => boolean;
  readonly blocked: ReadonlyMap<number, string>;
  readonly drainMs: number;
  readonly now: number;
}

function drainPhase({ leaving, view, planned, blocked, emptyMs, drainMs }: DrainFacts): DrainView["phase"] {
  if (!view || view.lost) return "Drained";
  if (leaving.reason !== "Stop" && planned) return blocked ? "Blocked" : "Moving";
  const status = view.report?.status;
  return (status?.draining && status.activeRequests === 0) || emptyMs > drainMs ? "Drained" : "Draining";
}

export class Drains {
  #phases = new Map<string, DrainView["phase"]>();
  #emptySince = new Map<string, number>();
  #asked = new Map<string, number>();

  step({ views, leaving, planned, blocked, drainMs, now }: DrainStep): void {
    const phases = new Map<string, DrainView["phase"]>();
    const emptySince = new Map<string, number>();
    for (const rank of leaving) {
      const { podUid } = rank;
      const since = this.#emptySince.get(podUid) ?? now;
      const phase = drainPhase({
        leaving: rank,
        view: views.find((view) => view.pod.uid === podUid),
        planned: planned(rank.rank),
        blocked: blocked.has(rank.rank),
        emptyMs: now - since,
        drainMs,
      });
      phases.set(podUid, phase);
      if (phase === "Draining" || phase === "Drained") emptySince.set(podUid, since);
    }
    this.#phases = phases;
    this.#emptySince = emptySince;
    this.#tell(views, drainMs, now);
  }

  /**
   * Tells a leaving rank to finish, and one that stays after all to serve on. A terminating rank is told that nothing more moves if it
   * blocks its own successor.
   */
  #tell(views: readonly RankView[], drainMs: number, now: number): void {
    const asked = new Map<string, number>();
    for (const view of views) {
      const { pod, link, report } = view;
      const draining = report?.status?.draining ?? false;
      const wanted = this.#finishes(view, draining);
      const last = this.#asked.get(pod.uid) ?? Number.NEGATIVE_INFINITY;
      const due = link !== undefined && wanted !== draining && now - last >= askMs;
      const finishMs = Math.max(0, drainMs - (now - (this.#emptySince.get(pod.uid) ?? now)));
      if (due) void link.drain(wanted ? finishMs : "cancel").catch(() => {}); // The next status shows the failure, and it is asked again.
      if (due || now - last < askMs) asked.set(pod.uid, due ? now : last);
    }
    this.#asked = asked;
  }

  #finishes({ pod, leaving }: RankView, draining: boolean): boolean {
    if (!leaving) return pod.terminating && draining;
    const phase = this.#phases.get(pod.uid);
    const stuck = phase === "Blocked" && pod.terminating && leaving.reason === "Roll";
    return draining || phase === "Draining" || stuck;
  }

  view({ leaving, blocked }: Pick<DrainStep, "leaving" | "blocked">): DrainView[] {
    return leaving.map(({ rank, podUid }) => {
      const phase = this.#phases.get(podUid) ?? "Moving";
      return { rank, podUid, phase, message: phase === "Blocked" ? (blocked.get(rank) ?? "") : "" };
    });
  }
}
