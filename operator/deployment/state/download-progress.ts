// Polls downloading pods and weight servers that start every few seconds, one request at a time each, beside the passes.
import { ports } from "../../../crds/common.ts";
import { type DownloadProgress, downloadProgressSchema, progressBytesMax, progressPath } from "../../../crds/download.ts";
import { askPod, type Identity } from "../../kube/ask-pod.ts";
import type { Ref } from "../../kube/kube.ts";
import { roleServerName } from "../../pki/names.ts";
import type { DownloadPoll, Owner, Records } from "./records.ts";

const askMs = 3_000;
/** Further polls wait for the next pass. */
const questionsMax = 8;

export interface DownloadPollsOptions {
  /** Undefined where the pod does not answer. */
  readonly ask: (question: ProgressQuestion) => Promise<DownloadProgress | undefined>;
  /** Called when a report is new. */
  readonly onReport: (ref: Ref) => void;
  readonly records: Records;
  readonly now: () => number;
}

export class DownloadPolls {
  readonly #options: DownloadPollsOptions;
  #underWay = 0;

  constructor(options: DownloadPollsOptions) {
    this.#options = options;
  }

  /** The pod's last report. */
  report(ref: Ref, uid: string | undefined): DownloadProgress | undefined {
    const { download, weightServer } = this.#options.records.find(ref) ?? {};
    return [download, weightServer].find((poll) => poll?.uid === uid)?.report;
  }

  /** Polls where due. Returns the milliseconds until the next poll; undefined where a ready pod knows its members. */
  ask(question: ProgressQuestion): number | undefined {
    const { now, records } = this.#options;
    const record = records.open(question.owner);
    const slot = question.body === undefined ? "download" : "weightServer";
    const before = record[slot];
    const poll = before?.uid === question.uid ? before : { uid: question.uid, report: undefined, told: undefined, waiting: false, due: 0 };
    record[slot] = poll;
    if (question.ready && poll.told === question.body) return undefined;
    const due = !poll.waiting && now() >= poll.due;
    if (due && this.#underWay >= questionsMax) return askMs;
    if (due) void this.#answer(poll, question);
    return Math.max(1, poll.due - now());
  }

  stop(ref: Ref): void {
    const record = this.#options.records.find(ref);
    if (record) record.download = undefined;
  }

  async #answer(poll: DownloadPoll, question: ProgressQuestion): Promise<void> {
    const { ask, onReport, now, records } = this.#options;
    poll.waiting = true;
    poll.due = now() + askMs;
    this.#underWay += 1;
    const report = await ask(question).catch(() => undefined);
    this.#underWay -= 1;
    poll.waiting = false;
    poll.due = now() + askMs;
    if (report === undefined) return;
    poll.report = report;
    poll.told = question.body;
    const { download, weightServer } = records.find(question.owner) ?? {};
    if (poll === download || poll === weightServer) onReport(question.owner);
  }
}

export interface ProgressQuestion {
  /** The deployment. */
  readonly owner: Owner;
  /** The pod's. */
  readonly uid: string;
  readonly ip: string;
  readonly identity: Identity;
  readonly ready?: boolean;
  /** The members that a weight server is told, JSON. */
  readonly body?: string | undefined;
}

/** Undefined where the pod does not answer, or unreadably. */
export async function askProgress(question: ProgressQuestion, port: number = ports.progress): Promise<DownloadProgress | undefined> {
  const { ip, owner, identity, uid, body } = question;
  const servername = roleServerName("downloader", owner);
  try {
    const asked = { ip, port, path: progressPath, servername, identity, bytesMax: progressBytesMax };
    // A weight server of an older image takes no list.
    const text = (body && (await askPod({ ...asked, body }))) || (await askPod(asked));
    const report = text === undefined ? undefined : downloadProgressSchema.safeParse(JSON.parse(text)).data;
    return report?.pod === uid ? report : undefined;
  } catch {
    return undefined; // the last report stays
  }
}
