// The state of the weight server: whether its model is ready, and what starting ranks wait for. Pure; ../objects/weight-server.ts renders
// it.
import type { DownloadWords } from "../../../crds/download.ts";
import { type Pending, wordsText } from "./delivery.ts";

export interface WeightServerState {
  readonly uid: string;
  readonly name: string;
  readonly ready: boolean;
  /** Why it does not run; empty when nothing is wrong. */
  readonly problem: string;
  readonly createdMs: number;
  /** It has the spec's model. */
  readonly current: boolean;
}

export interface WeightServerInput {
  /** It downloads the model itself. */
  readonly downloads: boolean;
  readonly suspended: boolean;
  readonly pods: readonly WeightServerState[];
  readonly words: DownloadWords | undefined;
  /** A rank has opened this model from it, and serves. */
  readonly serving: boolean;
}

export interface WeightServerVerdict {
  /** The model is missing, so that no rank is created. */
  readonly pending: Pending | undefined;
  /** What starting ranks wait for while others serve; empty when the weight server runs. */
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
