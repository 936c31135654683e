// The telemetry Secret of a deployment, which its workers mount: the keys that sign load messages, made and rotated here. One without
// our owner is not touched, and one of ours that cannot be read is made anew. Whatever is wrong with it ends no reconcile but in a
// verdict on telemetry: pods serve without it, and nothing that they report is believed.
import { randomBytes } from "node:crypto";
import { AppError } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import {
  decodeTelemetryKeys,
  encodeTelemetryKeys,
  rotatedTelemetryKeys,
  type TelemetryKey,
  type TelemetryKeys,
  telemetryKeyBytes,
  telemetrySecretEntries,
  telemetrySecretName,
} from "../../crds/telemetry-keys.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import { manager } from "./apply.ts";
import type { Informers } from "./informers.ts";
import { objectLabels, ownerOf } from "./objects/context.ts";
import type { Deployments } from "./ports.ts";

type Entries = Readonly<Record<string, string>>;
type KeysFound = ReturnType<Deployments["telemetryKeys"]>;

export class TelemetrySecrets {
  readonly #kube: Kube;
  readonly #informers: Informers;
  readonly #now: () => Date;
  /** What was read last, by the deployment's uid. */
  readonly #read = new Map<string, { readonly version: string; readonly found: KeysFound }>();

  constructor(kube: Kube, informers: Informers, now: () => Date) {
    this.#kube = kube;
    this.#informers = informers;
    this.#now = now;
  }

  /** Makes the Secret, or brings it up to date; throws what the API server says against it. */
  async ensure(deployment: MoEDeployment): Promise<void> {
    const ref = refOf(deployment);
    const cached = this.#informers.get("secrets", ref);
    if (cached && this.#standing(deployment, cached)) return;
    // A look at the cache alone could make a second key for one that was just written.
    const live = await this.#kube.get(resources.secrets, ref);
    if (live && this.#standing(deployment, live)) return;
    const secret = secretOf(deployment, this.#wanted(live));
    // AlreadyExists: another writer was first, and the next pass reads theirs.
    if (live) await this.#kube.apply(resources.secrets, secret, { manager });
    else await this.#kube.create(resources.secrets, secret, { manager });
  }

  /** True when nothing is to be written: it is as wanted, or not ours to write. */
  #standing({ metadata }: MoEDeployment, live: KubeObject): boolean {
    if (!isOwned(live, metadata.uid)) return true;
    const have = entriesOf(live);
    return Object.entries(this.#wanted(live)).every(([entry, text]) => have[entry] === text);
  }

  #wanted(live: KubeObject | undefined): Entries {
    const now = this.#now().getTime();
    return { [telemetrySecretEntries.keys]: encodeTelemetryKeys(rotatedTelemetryKeys(keysIn(live), now, () => freshKey(now))) };
  }

  /** The keys as the cache has them, or the reason why there are none. */
  keys(ref: Ref, uid: string): KeysFound {
    const name = telemetrySecretName(ref.name);
    const live = this.#informers.get("secrets", { namespace: ref.namespace, name });
    if (!live) return { problem: `Secret ${name} is not there yet` };
    if (!isOwned(live, uid)) return { problem: `Secret ${name} has another owner or none; delete or rename it` };
    const version = live.metadata.resourceVersion ?? "";
    const known = this.#read.get(uid);
    if (known?.version === version) return known.found;
    const found = readKeys(live);
    this.#read.set(uid, { version, found });
    return found;
  }

  forget(uid: string): void {
    this.#read.delete(uid);
  }
}

function readKeys(live: KubeObject): KeysFound {
  try {
    return { keys: decodeTelemetryKeys(entriesOf(live)[telemetrySecretEntries.keys] ?? "") };
  } catch (caught) {
    return { problem: `Secret ${live.metadata.name}: ${AppError.from(caught).message}` };
  }
}

/** What cannot be read is none: it is replaced. */
function keysIn(live: KubeObject | undefined): TelemetryKeys {
  return (live && readKeys(live).keys) ?? [];
}

function freshKey(madeMs: number): TelemetryKey {
  return { id: randomBytes(8).toString("hex"), secret: randomBytes(telemetryKeyBytes), madeMs };
}

const isOwned = ({ metadata }: KubeObject, uid: string): boolean => metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;

function refOf({ metadata }: MoEDeployment): Ref {
  return { namespace: metadata.namespace, name: telemetrySecretName(metadata.name) };
}

function entriesOf(secret: KubeObject): Entries {
  const data = (secret.data ?? {}) as Record<string, string>;
  return Object.fromEntries(Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text, "base64").toString("utf8")]));
}

function secretOf(deployment: MoEDeployment, entries: Entries): KubeObject {
  const data = Object.fromEntries(Object.entries(entries).map(([entry, text]) => [entry, Buffer.from(text).toString("base64")]));
  const metadata = {
    ...refOf(deployment),
    labels: objectLabels(deployment.metadata.name, "shared"),
    ownerReferences: [ownerOf(deployment)],
  };
  return { apiVersion: "v1", kind: "Secret", metadata, type: "Opaque", data };
}
