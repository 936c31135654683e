// Where the pods of a job may run by the claims that they mount, as serving decides it (operator/deployment/DECISIONS.md 13). Pure.
import { type ClaimUse, holderOf, isAstray, ofOneNode, refusalOf, remedy } from "../../pods/claim-holder.ts";
import { type ClaimReach, userOf } from "../../pods/claim-use.ts";
import type { PodView } from "./pod-view.ts";

export interface ClaimLook {
  readonly job: string;
  readonly ranks: number;
  /** The job's claims by name. */
  readonly reaches: ReadonlyMap<string, ClaimReach>;
  /** Whoever mounts one of them, own pods too. */
  readonly uses: readonly ClaimUse[];
  /** Own pods that have not ended. */
  readonly pods: readonly Pick<PodView, "uid" | "running" | "held">[];
  /** The node that the job's template names. */
  readonly nodeName: string | undefined;
}

export interface ClaimPlace {
  /** All pods of the job are held to it; undefined = any. */
  readonly node: string | undefined;
  readonly problems: readonly { readonly reason: string; readonly message: string }[];
  /** Uids of pods that can never run where they are, or are held to. */
  readonly astray: ReadonlySet<string>;
}

export const anywhere: ClaimPlace = { node: undefined, problems: [], astray: new Set() };

export function claimPlace({ job, ranks, reaches, uses, pods, nodeName }: ClaimLook): ClaimPlace {
  const bounded = uses.filter(({ claim }) => (reaches.get(claim) ?? "Nodes") !== "Nodes");
  const narrow = ofOneNode(bounded);
  const user = userOf.job(job);
  const holder = holderOf(narrow);
  const inUse = [...reaches].flatMap(([claim, reach]) => {
    if (reach !== "Pod") return [];
    const several = `claim ${claim} is ReadWriteOncePod, and the job has ${ranks} ranks: use ${remedy}, or set spec.replicas to 1`;
    const used = narrow.filter((use) => use.claim === claim);
    const message = ranks > 1 ? several : refusalOf(used, { claim, user, tried: false });
    return message === "" ? [] : [{ reason: "ClaimInUse", message }];
  });
  const other = narrow.find((use) => holder?.mounted && use.mounted && use.node !== holder.node);
  const apart = holder && other ? [{ reason: "ClaimsApart", message: apartText(holder, other) }] : [];
  const elsewhere =
    holder && nodeName && nodeName !== holder.node ? [{ reason: "ClaimElsewhere", message: namedText(nodeName, holder) }] : [];
  const astray = pods.filter(({ uid, running, held }) => !running && isAstray(bounded, (use) => use.uid === uid, held));
  return { node: holder?.node, problems: [...inUse, ...apart, ...elsewhere], astray: new Set(astray.map(({ uid }) => uid)) };
}

const whereText = ({ claim, node, pod, user }: ClaimUse): string => `${claim} is on node ${node} for pod ${pod} of ${user}`;

/** The kubelet would reject such a pod, since no scheduler has a say. */
const namedText = (nodeName: string, holder: ClaimUse): string =>
  `spec.podTemplate.spec.nodeName is ${nodeName}, and claim ${whereText(holder)}: name that node or none, or wait until that pod ends`;

function apartText(...both: readonly [ClaimUse, ClaimUse]): string {
  const [one, other] = both.map(whereText);
  return `no node can mount all claims of the job: ${one}, and ${other}; wait until one of them ends, or use claims that are ReadWriteMany`;
}
