// The weight server as it is to be told: whether the model is there for ranks that mount none, and what those that start wait for. From what is
// observed alone; the weight server's objects are rendered (../objects/weight-server.ts), and its pod is the Deployment controller's to make. Pure.
import type { DownloadWords } from "../../../crds/download.ts";
import { type Pending, wordsText } from "./delivery.ts";

export interface WeightServerState {
  readonly uid: string;
  readonly name: string;
  readonly ready: boolean;
  /** The reason why it does not run; empty when nothing is wrong. */
  readonly problem: string;
  readonly createdMs: number;
  /** It was made for the model of the spec. */
  readonly current: boolean;
}

export interface WeightServerInput {
  /** It downloads the model, which is nowhere else. */
  readonly downloads: boolean;
  readonly suspended: boolean;
  readonly pods: readonly WeightServerState[];
  /** What its pod said last. */
  readonly words: DownloadWords | undefined;
  /** A rank has opened this model from it, and serves. */
  readonly serving: boolean;
}

export interface WeightServerVerdict {
  /** The model is not there yet: no rank is made before. */
  readonly pending: Pending | undefined;
  /** Ranks serve, and those that start wait for this; empty when the weight server is there. */
  readonly away: string;
}

const there: WeightServerVerdict = { pending: undefined, away: "" };

export function weightServerVerdict({ downloads, suspended, pods, words, serving }: WeightServerInput): WeightServerVerdict {
  if (suspended) {
    const message = "spec.suspend is true: the weight server downloads the model once it is false";
    return downloads ? { pending: { reason: "Suspended", message, words }, away: "" } : there;
  }
  const [newest] = pods.filter(({ current }) => current).sort((a, b) => b.createdMs - a.createdMs);
  if (newest?.ready) return there;
  const heard = newest !== undefined && words?.pod === newest.uid ? words : undefined;
  const message = newest === undefined ? "the weight server has no pod yet" : stateText(newest, downloads ? heard : undefined);
  if (serving) return { pending: undefined, away: `${message}; ranks that serve go on, and those that start wait for it` };
  const reason = heard?.reason ?? (downloads ? "Downloading" : "WeightServerNotReady");
  return { pending: { reason, message, words: downloads ? heard : undefined }, away: "" };
}

function stateText({ name, problem }: WeightServerState, words: DownloadWords | undefined): string {
  if (problem !== "") return `the weight server, pod ${name}, does not run: ${problem}`;
  return words === undefined || words.phase === "Done" ? `the weight server, pod ${name}, starts and opens the model` : wordsText(words);
}
