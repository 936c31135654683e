// Polls running pods beside the passes: sends their world, stores their reports.

import { ports } from "../../crds/common.ts";
import { type PodReport, podReportSchema, trainingScope, type WorldOrder, worldBytesMax, worldPath } from "../../crds/training-world.ts";
import { serverNames } from "../../runtime/net/tls.ts";
import { askPod, type Identity } from "../kube/ask-pod.ts";

const questionsMax = 8;
/** Each unanswered poll doubles it. */
const askMs = 2_000;
const askMsMax = 60_000;
/** Polls for which a starting pod is polled often. */
const patience = 30;

/** Poll interval in a world that may not hold. */
const askSoonMs = 500;

export interface RankPod {
  readonly uid: string;
  readonly ip: string;
  readonly rank: number;
  /** It is to end, since no world needs its state. */
  readonly stops: boolean;
}

export interface Question extends Omit<RankPod, "stops"> {
  readonly namespace: string;
  readonly job: string;
  readonly order: WorldOrder;
  readonly identity: Identity;
}

export type Job = Pick<Question, "namespace" | "job" | "identity"> & {
  readonly world: WorldOrder["world"];
  readonly jobUid: string;
  readonly restless: boolean;
};

interface Asked {
  readonly key: string;
  readonly pod: RankPod;
  question: Question;
  report: PodReport | undefined;
  silent: number;
  answered: number;
  due: number;
  waiting: boolean;
}

export interface TalksOptions {
  readonly ask: (question: Question) => Promise<PodReport | undefined>;
  readonly onReport: (key: string) => void;
  readonly now: () => number;
}

export class PodTalks {
  readonly #options: TalksOptions;
  readonly #jobs = new Map<string, Map<string, Asked>>();
  #queue: Asked[] = [];
  #underWay = 0;

  constructor(options: TalksOptions) {
    this.#options = options;
  }

  reports(key: string): ReadonlyMap<string, PodReport> {
    const found = [...(this.#jobs.get(key)?.values() ?? [])].flatMap(({ pod, report }) => (report ? [[pod.uid, report] as const] : []));
    return new Map(found);
  }

  silence(key: string, uid: string): number {
    return this.#jobs.get(key)?.get(uid)?.silent ?? 0;
  }

  /** Forgets all other pods. */
  tell(key: string, job: Job, pods: readonly RankPod[]): void {
    const known = this.#jobs.get(key) ?? new Map<string, Asked>();
    const next = new Map<string, Asked>();
    for (const pod of pods) {
      const before = known.get(pod.uid);
      const asked = before?.pod.ip === pod.ip ? before : fresh(key, pod, job);
      const { stop } = asked.question.order;
      asked.question = questionOf(pod, job);
      if (asked.question.order.stop !== stop) asked.due = 0;
      if (job.restless && asked.silent === 0) asked.due = Math.min(asked.due, asked.answered + askSoonMs);
      next.set(pod.uid, asked);
      this.#ask(asked);
    }
    this.#jobs.set(key, next);
    this.#queue = this.#queue.filter((asked) => asked.key !== key || next.get(asked.pod.uid) === asked);
  }

  forget(key: string): void {
    this.#jobs.delete(key);
    this.#queue = this.#queue.filter((asked) => asked.key !== key);
  }

  #ask(asked: Asked): void {
    const news = asked.report !== undefined && asked.report.epoch < (asked.question.order.world?.epoch ?? 0) && asked.silent === 0;
    if (asked.waiting || (!news && this.#options.now() < asked.due)) return;
    asked.waiting = true;
    this.#queue.push(asked);
    this.#next();
  }

  #next(): void {
    while (this.#underWay < questionsMax) {
      const asked = this.#queue.shift();
      if (asked === undefined) return;
      this.#underWay += 1;
      void this.#answer(asked);
    }
  }

  async #answer(asked: Asked): Promise<void> {
    const report = await this.#options.ask(asked.question).catch(() => undefined);
    this.#underWay -= 1;
    asked.silent = report === undefined ? asked.silent + 1 : 0;
    const starts = asked.report === undefined && asked.silent <= patience;
    asked.answered = this.#options.now();
    asked.due = asked.answered + (starts ? askMs : Math.min(askMsMax, askMs * 2 ** asked.silent));
    asked.waiting = false;
    const falls = asked.silent === 1 && asked.report !== undefined;
    // A silence does not say whether the pod trains.
    asked.report = report ?? asked.report;
    if ((report !== undefined || falls) && this.#jobs.get(asked.key)?.get(asked.pod.uid) === asked) this.#options.onReport(asked.key);
    this.#next();
  }
}

const fresh = (key: string, pod: RankPod, job: Job): Asked => ({
  key,
  pod,
  question: questionOf(pod, job),
  report: undefined,
  silent: 0,
  answered: 0,
  due: 0,
  waiting: false,
});

function questionOf({ uid, ip, rank, stops }: RankPod, { namespace, job, identity, jobUid, world }: Job): Question {
  const order = { job: jobUid, pod: uid, ...(world && { world }), ...(stops && { stop: true as const }) };
  return { uid, ip, rank, namespace, job, identity, order };
}

/** Sends a pod its world and reads its report; undefined where it refuses, does not answer, or unreadably. */
export async function tellPod(question: Question, port: number = ports.world): Promise<PodReport | undefined> {
  const { ip, rank, namespace, job, order, identity, uid } = question;
  const servername = serverNames.rank(rank, namespace, trainingScope(job));
  try {
    const body = JSON.stringify(order);
    const text = await askPod({ ip, port, path: worldPath, servername, identity, bytesMax: worldBytesMax, body });
    const report = text === undefined ? undefined : podReportSchema.safeParse(JSON.parse(text)).data;
    return report?.pod === uid ? report : undefined;
  } catch {
    return undefined; // the last report stays
  }
}
