// Where a claim that one node alone can mount is, and who is not to mount it at all (DECISIONS.md 13). Pure.

/** A pod that mounts the claim, or is to on the node that it is bound to. */
export interface ClaimUse {
  readonly uid: string;
  readonly pod: string;
  readonly claim: string;
  readonly deployment: string;
  readonly component: string;
  readonly node: string;
  /** Its containers run, so that the node has the volume. */
  readonly mounted: boolean;
  readonly terminating: boolean;
  readonly createdMs: number;
  /** As one text: claim and folder. */
  readonly model: string | undefined;
  /** The node that its template named. */
  readonly held: string | undefined;
}

/** Every pass of every deployment picks the same one, so that of two pods that were bound at once one follows the other. */
export function holderOf(uses: readonly ClaimUse[]): ClaimUse | undefined {
  const order = (a: ClaimUse, b: ClaimUse) =>
    Number(b.mounted) - Number(a.mounted) || a.createdMs - b.createdMs || (a.uid < b.uid ? -1 : 1);
  return [...uses].sort(order)[0];
}

/** The node that the template of a weight server names. It stays while its pod stands where the claim is, since a change restarts it. */
export function serverNode(uses: readonly ClaimUse[], isOwn: (use: ClaimUse) => boolean, model: string): string | undefined {
  const others = uses.filter((use) => !isOwn(use));
  const own = holderOf(uses.filter((use) => isOwn(use) && !use.terminating && use.model === model));
  const holder = holderOf(own ? [...others, own] : others);
  return own && own.node === holder?.node ? own.held : holder?.node;
}

/** A download that cannot run where it is or is held to; it is made anew, since a Job cannot be changed. */
export function isAstray(uses: readonly ClaimUse[], isOwn: (use: ClaimUse) => boolean, held: string | undefined): boolean {
  const own = holderOf(uses.filter(isOwn));
  const at = own?.node ?? held;
  return at !== undefined && own?.mounted !== true && at !== holderOf(uses)?.node;
}

const remedy = "a claim that is ReadWriteOnce or ReadWriteMany";

/** Why a deployment may not mount a ReadWriteOncePod claim; empty where it may. `tried`: a green deployment is to mount it first. */
export function refusalOf(uses: readonly ClaimUse[], { claim, deployment, tried }: Asking): string {
  const is = `claim ${claim} is ReadWriteOncePod`;
  if (tried) return `${is}, so that no green deployment can try the model: use ${remedy}, or set spec.rolloutStrategy.maxSurge to 0`;
  const holder = holderOf(uses);
  if (holder === undefined || holder.deployment === deployment) return "";
  return `${is}, and pod ${holder.pod} of deployment ${holder.deployment} has it: use ${remedy}, or another claim`;
}

interface Asking {
  readonly claim: string;
  readonly deployment: string;
  readonly tried: boolean;
}
