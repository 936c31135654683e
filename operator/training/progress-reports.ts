// The newest words of each running pod on how far it is, asked for beside the looks at jobs, a bounded number at once: a pod that does
// not answer keeps no other job waiting, and is asked less often.
import type { TrainingReport } from "../../crds/training-report.ts";

/** Questions under way at once. */
const questionsMax = 8;
/** A pod that answers is asked this often; with each question that it leaves without an answer, half as often, down to the last. */
const askMs = 5_000;
const askMsMax = 60_000;

interface Asked {
  readonly key: string;
  readonly uid: string;
  readonly ip: string;
  report: TrainingReport | undefined;
  /** Questions in a row without an answer. */
  silent: number;
  due: number;
  waiting: boolean;
}

export interface ReportsOptions {
  readonly ask: (ip: string) => Promise<TrainingReport | undefined>;
  /** Called with the key of a job once there is something new. */
  readonly told: (key: string) => void;
  readonly now: () => number;
}

export class ProgressReports {
  readonly #options: ReportsOptions;
  /** One entry a job, gone with its pod. */
  readonly #jobs = new Map<string, Asked>();
  #queue: Asked[] = [];
  #underWay = 0;

  constructor(options: ReportsOptions) {
    this.#options = options;
  }

  /** What the pod of a job said last, at once; it is asked again where that is due. */
  of(key: string, { uid, ip }: { readonly uid: string; readonly ip: string }): TrainingReport | undefined {
    const asked = this.#entry(key, uid, ip);
    if (!asked.waiting && this.#options.now() >= asked.due) {
      asked.waiting = true;
      this.#queue.push(asked);
      this.#next();
    }
    return asked.report;
  }

  forget(key: string): void {
    this.#jobs.delete(key);
    this.#queue = this.#queue.filter((asked) => asked.key !== key);
  }

  #entry(key: string, uid: string, ip: string): Asked {
    const known = this.#jobs.get(key);
    if (known?.uid === uid && known.ip === ip) return known;
    this.forget(key);
    const asked: Asked = { key, uid, ip, report: undefined, silent: 0, due: 0, waiting: false };
    this.#jobs.set(key, asked);
    return asked;
  }

  #next(): void {
    while (this.#underWay < questionsMax) {
      const asked = this.#queue.shift();
      if (asked === undefined) return;
      this.#underWay += 1;
      void this.#ask(asked);
    }
  }

  async #ask(asked: Asked): Promise<void> {
    const report = await this.#options.ask(asked.ip).catch(() => undefined);
    this.#underWay -= 1;
    asked.silent = report === undefined ? asked.silent + 1 : 0;
    asked.due = this.#options.now() + Math.min(askMsMax, askMs * 2 ** asked.silent);
    asked.waiting = false;
    const news = report !== undefined || asked.report !== undefined;
    asked.report = report;
    if (news && this.#jobs.get(asked.key) === asked) this.#options.told(asked.key);
    this.#next();
  }
}
