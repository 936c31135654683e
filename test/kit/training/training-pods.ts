// Training pods as processes of this one: each on an address of its own of loopback, with a certificate of one job, told their worlds as
// the operator tells them.
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type MoETrainingJobSpec, moeTrainingJobSpecSchema } from "../../../crds/moe-training-job.ts";
import type { TrainerSettings } from "../../../crds/training-process.ts";
import { type PodReport, type TrainingWorld, trainingScope, type WorldOrder } from "../../../crds/training-world.ts";
import { tellPod } from "../../../operator/training/pod-talks.ts";
import { startTrainer, type Trainer, type TrainerOptions } from "../../../runtime/train/pod/trainer.ts";
import { createTestCa } from "../network/certs.ts";

const [namespace, job] = ["ns", "j"];
const ca = createTestCa();
const folders = new Map<string, string>();

/** Where a pod as `rank-<r>`, or the operator, has its certificate. */
export function tlsFolder(member: string, pod = member): string {
  const known = folders.get(`${member} ${pod}`);
  if (known !== undefined) return known;
  const folder = mkdtempSync(join(ca.dir, "tls-"));
  const { cert, key, ca: trusted } = ca.issue(member, namespace, trainingScope(job), pod, pod).current();
  for (const [file, pem] of [
    ["tls.crt", cert],
    ["tls.key", key],
    ["ca.crt", trusted],
  ] as const)
    writeFileSync(join(folder, file), pem);
  folders.set(`${member} ${pod}`, folder);
  return folder;
}

/** The spec of a short job on the tiny model. */
export const podSpec = (change: object = {}): MoETrainingJobSpec =>
  moeTrainingJobSpecSchema.parse({
    model: { uri: "pvc://models/tiny" },
    data: { uri: "pvc://data/tokens", sequenceLength: 8 },
    steps: 8,
    batch: { sequences: 4, microBatches: 4 },
    memoryPerRank: "1Gi",
    output: { uri: "pvc://models/out" },
    ...change,
  });

/** What the pod of a rank is started with. */
export function podSettings({
  rank = 0,
  podUid = `pod-${rank}`,
  ...given
}: Pick<TrainerSettings, "spec" | "endFile"> & Partial<TrainerSettings>): TrainerSettings {
  const identity = { namespace, job, jobUid: "job", podUid, rank, tlsDir: tlsFolder(`rank-${rank}`, podUid) };
  return { ...identity, ranksPort: 0, worldPort: 0, tracePort: 0, logLevel: "silent", ...given };
}

/** A digest of the model that a run left in its folder. */
export const modelIn = (out: string): string =>
  createHash("sha256")
    .update(readFileSync(join(out, "huggingface/model.safetensors")))
    .digest("hex");

/** A pod as worlds name it; on the address of loopback of its rank where no other is given. */
interface PodOfWorld {
  readonly uid: string;
  readonly rank: number;
  readonly ip?: string;
}

/** A world of pods, and of those that leave it. */
export function worldOfPods(epoch: number, pods: readonly PodOfWorld[], leaving: readonly PodOfWorld[] = []): TrainingWorld {
  const member = ({ uid, rank, ip = `127.0.0.${rank + 1}` }: PodOfWorld) => ({ rank, pod: uid, uid, ip, node: `node-${rank}` });
  const ranks = pods.map(member);
  return { epoch, since: "2026-01-01T00:00:00Z", ranks, ...(leaving.length > 0 && { leaving: leaving.map(member) }) };
}

/** A world of pods that have ranks 0, 1, 2 and so on. */
export const worldOf = (epoch: number, uids: readonly string[] = ["pod-0"]): TrainingWorld =>
  worldOfPods(
    epoch,
    uids.map((uid, rank) => ({ uid, rank })),
  );

export interface TellOptions {
  /** Whose certificate is shown. */
  readonly as?: string;
  readonly rank?: number;
  readonly uid?: string;
  readonly ip?: string;
  readonly order?: WorldOrder;
}

/** Tells a pod its world, as the operator does; undefined where it refuses, or is not there. */
export function tell(trainer: Pick<Trainer, "port">, world?: TrainingWorld, options: TellOptions = {}): Promise<PodReport | undefined> {
  const { as = "operator", rank = 0, uid = `pod-${rank}`, ip = `127.0.0.${rank + 1}` } = options;
  const { cert, key, ca: trusted } = certificate(as);
  const identity = { cert, key, ca: trusted };
  const order = options.order ?? { job: "job", pod: uid, ...(world && { world }) };
  return tellPod({ uid, ip, rank, namespace, job, order, identity }, trainer.port);
}

const issued = new Map<string, { readonly cert: string; readonly key: string; readonly ca: string }>();
function certificate(member: string): { readonly cert: string; readonly key: string; readonly ca: string } {
  const known = issued.get(member);
  if (known !== undefined) return known;
  const { cert, key, ca: trusted } = ca.issue(member, namespace, trainingScope(job)).current();
  const made = { cert: cert.toString(), key: key.toString(), ca: trusted.toString() };
  issued.set(member, made);
  return made;
}

/** A pod that has a world to itself. */
export async function begin(settings: TrainerSettings, options: TrainerOptions = {}): Promise<Trainer> {
  const trainer = await startTrainer(settings, { host: "127.0.0.1", ...options });
  while ((await tell(trainer, worldOf(1)))?.epoch !== 1); // one on a busy machine may be late
  return trainer;
}
