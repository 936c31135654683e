// Asks a downloading pod for its progress; its end comes from the kubelet.

import { ports } from "../../crds/common.ts";
import { type DownloadWords, downloadWordsSchema, progressBytesMax, progressPath } from "../../crds/download.ts";
import { askPod, type Identity } from "../kube/ask-pod.ts";
import type { Ref } from "../kube/kube.ts";
import { roleServerName } from "../pki/names.ts";

export interface ProgressQuestion {
  readonly ref: Ref;
  readonly uid: string;
  readonly ip: string;
  readonly identity: Identity;
}

/** Undefined where the pod does not answer, or unreadably. */
export async function askProgress(question: ProgressQuestion, port: number = ports.progress): Promise<DownloadWords | undefined> {
  const { ip, ref, identity, uid } = question;
  const servername = roleServerName("downloader", ref);
  try {
    const text = await askPod({ ip, port, path: progressPath, servername, identity, bytesMax: progressBytesMax });
    const words = text === undefined ? undefined : downloadWordsSchema.safeParse(JSON.parse(text)).data;
    return words?.pod === uid ? words : undefined;
  } catch {
    return undefined; // the last report stays
  }
}
