// Where a claim that one node alone can mount is, and who is not to mount it at all (operator/deployment/DECISIONS.md 13). Pure.

/** A pod that mounts the claim, or is to on the node that it is bound to. */
export interface ClaimUse {
  readonly uid: string;
  readonly pod: string;
  readonly claim: string;
  /** As one text: "deployment a", "job a". */
  readonly user: string;
  readonly component: string;
  readonly node: string;
  /** Its containers run, so that the node has the volume. */
  readonly mounted: boolean;
  readonly terminating: boolean;
  readonly createdMs: number;
  /** As one text, claim and folder; undefined for a pod that trains. */
  readonly model: string | undefined;
  /** The node that its template, or it itself, named. */
  readonly held: string | undefined;
}

/** Every pass of every deployment picks the same one, so that of two pods that were bound at once one follows the other. */
export function holderOf(uses: readonly ClaimUse[]): ClaimUse | undefined {
  const order = (a: ClaimUse, b: ClaimUse) =>
    Number(b.mounted) - Number(a.mounted) || a.createdMs - b.createdMs || (a.uid < b.uid ? -1 : 1);
  return [...uses].sort(order)[0];
}

/** A claim that runs on two nodes can be mounted on many, whatever its modes say, and holds nobody. */
export function ofOneNode(uses: readonly ClaimUse[]): ClaimUse[] {
  const running = uses.filter(({ mounted }) => mounted);
  const at = new Map(running.map(({ claim, node }) => [claim, node]));
  const many = new Set(running.flatMap(({ claim, node }) => (at.get(claim) === node ? [] : claim)));
  return uses.filter(({ claim }) => !many.has(claim));
}

/** The node that the template of a weight server names. It stays while its pod stands where the claim is, since a change restarts it. */
export function serverNode(uses: readonly ClaimUse[], isOwn: (use: ClaimUse) => boolean, model: string): string | undefined {
  const others = uses.filter((use) => !isOwn(use));
  const own = holderOf(uses.filter((use) => isOwn(use) && !use.terminating && use.model === model));
  const holder = holderOf(ofOneNode(own ? [...others, own] : others));
  return own && own.node === (holder ?? own).node ? own.held : holder?.node;
}

/** A download or a pod that cannot run where it is or is held to; it is made anew, since neither can be changed. */
export function isAstray(uses: readonly ClaimUse[], isOwn: (use: ClaimUse) => boolean, held: string | undefined): boolean {
  const own = holderOf(uses.filter(isOwn));
  const holder = holderOf(ofOneNode(uses));
  if (own === undefined) return held !== undefined && held !== holder?.node;
  return !own.mounted && own.node !== (holder ?? own).node;
}

export const remedy = "a claim that is ReadWriteOnce or ReadWriteMany";

/** Why somebody may not mount a ReadWriteOncePod claim; empty where it may. `tried`: a green deployment is to mount it first. */
export function refusalOf(uses: readonly ClaimUse[], { claim, user, tried }: Asking): string {
  const is = `claim ${claim} is ReadWriteOncePod`;
  if (tried) return `${is}, so that no green deployment can try the model: use ${remedy}, or set spec.rolloutStrategy.maxSurge to 0`;
  const holder = holderOf(uses);
  if (holder === undefined || holder.user === user) return "";
  return `${is}, and pod ${holder.pod} of ${holder.user} has it: use ${remedy}, or another claim`;
}

interface Asking {
  readonly claim: string;
  readonly user: string;
  readonly tried: boolean;
}
