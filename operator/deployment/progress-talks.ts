// The talk with pods that download models: each is asked every few seconds, one question at a time, beside the looks at deployments. What
// it said last is known at once.
import type { DownloadWords } from "../../crds/download.ts";
import { keyOf } from "../kube/kube.ts";
import type { ProgressQuestion } from "./ask-progress.ts";

const askMs = 3_000;
/** Questions under way at once; those beyond wait for the next look. */
const questionsMax = 8;

export interface ProgressTalksOptions {
  /** Undefined where the pod does not answer. */
  readonly ask: (question: ProgressQuestion) => Promise<DownloadWords | undefined>;
  /** Called with the key of a deployment once there is something new. */
  readonly told: (key: string) => void;
  readonly now: () => number;
}

interface Asked {
  readonly uid: string;
  words: DownloadWords | undefined;
  waiting: boolean;
  due: number;
}

export class ProgressTalks {
  readonly #options: ProgressTalksOptions;
  /** By key of the deployment, which has one pod that downloads. */
  readonly #asked = new Map<string, Asked>();
  #underWay = 0;

  constructor(options: ProgressTalksOptions) {
    this.#options = options;
  }

  /** What that pod said last. */
  words(key: string, uid: string | undefined): DownloadWords | undefined {
    const asked = this.#asked.get(key);
    return asked?.uid === uid ? asked?.words : undefined;
  }

  /** Asks where it is time. Returns the milliseconds until it is time again. */
  ask(question: ProgressQuestion): number {
    const { now } = this.#options;
    const key = keyOf(question.ref);
    const before = this.#asked.get(key);
    const asked = before?.uid === question.uid ? before : { uid: question.uid, words: undefined, waiting: false, due: 0 };
    this.#asked.set(key, asked);
    const due = !asked.waiting && now() >= asked.due;
    if (due && this.#underWay >= questionsMax) return askMs;
    if (due) void this.#answer(key, asked, question);
    return Math.max(1, asked.due - now());
  }

  forget(key: string): void {
    this.#asked.delete(key);
  }

  async #answer(key: string, asked: Asked, question: ProgressQuestion): Promise<void> {
    const { ask, told, now } = this.#options;
    asked.waiting = true;
    asked.due = now() + askMs;
    this.#underWay += 1;
    const words = await ask(question).catch(() => undefined);
    this.#underWay -= 1;
    asked.waiting = false;
    asked.due = now() + askMs;
    if (words === undefined) return;
    asked.words = words;
    if (this.#asked.get(key) === asked) told(key);
  }
}
