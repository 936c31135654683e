// The talk with each running pod: it is told its world and says how it stands, beside the looks at jobs, a bounded number of pods at once.
// One that does not answer keeps no other waiting, and is asked less often. What is told is what the status says already.

import type { PodWords, WorldOrder } from "../../crds/training-world.ts";
import type { Identity } from "../kube/ask-pod.ts";

/** Questions under way at once. */
const questionsMax = 8;
/** A pod that answers is asked this often; with each question that it leaves without an answer, half as often, down to the last. */
const askMs = 2_000;
const askMsMax = 60_000;
/** One that has never answered starts, so that it is asked soon again for so many questions. */
const patience = 30;

/** Pods that answer, of a world that may not stand, are asked this often: it is not known yet which of them are lost. */
const askSoonMs = 500;

/** A pod that is to be told of a world. */
export interface Told {
  readonly uid: string;
  readonly ip: string;
  readonly rank: number;
  /** It is to end, since no world takes what it has. */
  readonly stops: boolean;
}

/** How a pod is reached, and what it is told. */
export interface Question extends Omit<Told, "stops"> {
  readonly namespace: string;
  readonly job: string;
  readonly order: WorldOrder;
  readonly identity: Identity;
}

export type Job = Pick<Question, "namespace" | "job" | "identity"> & {
  readonly world: WorldOrder["world"];
  readonly jobUid: string;
  /** Its world may not stand. */
  readonly restless: boolean;
};

interface Asked {
  readonly key: string;
  readonly pod: Told;
  question: Question;
  words: PodWords | undefined;
  /** Questions in a row without an answer. */
  silent: number;
  answered: number;
  due: number;
  waiting: boolean;
}

export interface TalksOptions {
  /** Undefined where the pod does not answer. */
  readonly ask: (question: Question) => Promise<PodWords | undefined>;
  /** Called with the key of a job once there is something new. */
  readonly told: (key: string) => void;
  readonly now: () => number;
}

export class PodTalks {
  readonly #options: TalksOptions;
  /** By key of the job and uid of the pod; one a pod, gone with it. */
  readonly #jobs = new Map<string, Map<string, Asked>>();
  #queue: Asked[] = [];
  #underWay = 0;

  constructor(options: TalksOptions) {
    this.#options = options;
  }

  /** What pods of a job said last, at once, by uid. */
  words(key: string): ReadonlyMap<string, PodWords> {
    const said = [...(this.#jobs.get(key)?.values() ?? [])].flatMap(({ pod, words }) => (words ? [[pod.uid, words] as const] : []));
    return new Map(said);
  }

  /** Questions in a row that a pod left without an answer. */
  silence(key: string, uid: string): number {
    return this.#jobs.get(key)?.get(uid)?.silent ?? 0;
  }

  /** Tells these pods of a job's world, where that is due or new to them; others are forgotten. */
  tell(key: string, job: Job, pods: readonly Told[]): void {
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
    const news = asked.words !== undefined && asked.words.epoch < (asked.question.order.world?.epoch ?? 0) && asked.silent === 0;
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
    const words = await this.#options.ask(asked.question).catch(() => undefined);
    this.#underWay -= 1;
    asked.silent = words === undefined ? asked.silent + 1 : 0;
    const starts = asked.words === undefined && asked.silent <= patience;
    asked.answered = this.#options.now();
    asked.due = asked.answered + (starts ? askMs : Math.min(askMsMax, askMs * 2 ** asked.silent));
    asked.waiting = false;
    const falls = asked.silent === 1 && asked.words !== undefined;
    // What it said stays until it is gone: whether it trains, its peers and the kubelet know better than a silence.
    asked.words = words ?? asked.words;
    if ((words !== undefined || falls) && this.#jobs.get(asked.key)?.get(asked.pod.uid) === asked) this.#options.told(asked.key);
    this.#next();
  }
}

const fresh = (key: string, pod: Told, job: Job): Asked => ({
  key,
  pod,
  question: questionOf(pod, job),
  words: undefined,
  silent: 0,
  answered: 0,
  due: 0,
  waiting: false,
});

function questionOf({ uid, ip, rank, stops }: Told, { namespace, job, identity, jobUid, world }: Job): Question {
  const order = { job: jobUid, pod: uid, ...(world && { world }), ...(stops && { stop: true as const }) };
  return { uid, ip, rank, namespace, job, identity, order };
}
