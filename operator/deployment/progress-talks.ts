// Polls downloading pods every few seconds, one request at a time each, beside the passes.
import type { DownloadWords } from "../../crds/download.ts";
import { keyOf } from "../kube/kube.ts";
import type { ProgressQuestion } from "./ask-progress.ts";

const askMs = 3_000;
/** Further polls wait for the next pass. */
const questionsMax = 8;

export interface ProgressTalksOptions {
  /** Undefined where the pod does not answer. */
  readonly ask: (question: ProgressQuestion) => Promise<DownloadWords | undefined>;
  /** Called with the deployment's key when a report is new. */
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
  /** Keys are those of deployments, which have one downloading pod each. */
  readonly #asked = new Map<string, Asked>();
  #underWay = 0;

  constructor(options: ProgressTalksOptions) {
    this.#options = options;
  }

  /** The pod's last report. */
  words(key: string, uid: string | undefined): DownloadWords | undefined {
    const asked = this.#asked.get(key);
    return asked?.uid === uid ? asked?.words : undefined;
  }

  /** Polls where due. Returns the milliseconds until the next poll. */
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
