// The telemetry Secret of a deployment, which its workers mount: the keys that sign load messages, made and rotated here, and a copy of
// the credentials of the NATS server, so that workers mount no Secret whose type nobody has looked at. One without our owner is not
// touched, and one of ours that cannot be read, or that a deleted namesake left, is made anew, whoever changed it: keys are nobody
// else's to set. Pods serve without it, and nothing that they report is believed.
import { randomBytes } from "node:crypto";
import { AppError } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { natsEntries } from "../../crds/nats-access.ts";
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
import { isOrphan, manager, mayAdopt } from "../kube/adoption.ts";
import { hasCode } from "../kube/errors.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import { credentialProblems, type NatsCredentials, type NatsEntries } from "./nats-credentials.ts";
import { objectLabels, ownerOf } from "./objects/context.ts";
import type { Deployments } from "./ports.ts";

/** Credentials are read again after this: they are no Secret of ours, so nobody tells us of a change. */
const rereadMs = 30_000;

export interface TelemetrySecretsOptions {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly nats: NatsCredentials;
  readonly now: () => Date;
}

type Entries = Readonly<Record<string, string>>;
type KeysFound = ReturnType<Deployments["telemetryKeys"]>;

export class TelemetrySecrets {
  readonly #kube: Kube;
  readonly #informers: Informers;
  readonly #nats: NatsCredentials;
  readonly #now: () => Date;
  /** The credentials that were read last, by the deployment's uid. */
  readonly #entries = new Map<string, { readonly source: string; readonly entries: NatsEntries; readonly until: number }>();
  /** What was read last, by the deployment's uid. */
  readonly #read = new Map<string, { readonly version: string; readonly found: KeysFound }>();

  constructor({ kube, informers, nats, now }: TelemetrySecretsOptions) {
    this.#kube = kube;
    this.#informers = informers;
    this.#nats = nats;
    this.#now = now;
  }

  /** Makes the Secret, or brings it up to date; throws what the API server says against it. */
  async ensure(deployment: MoEDeployment): Promise<void> {
    const ref = refOf(deployment);
    const credentials = await this.#credentials(deployment);
    const cached = this.#informers.get("secrets", ref);
    if (cached && !isOrphan(cached.metadata, deployment.metadata.name) && this.#standing(deployment, cached, credentials)) return;
    // A look at the cache alone could make a second key for one that was just written.
    const live = await this.#kube.get(resources.secrets, ref);
    const adopted = live !== undefined && (await mayAdopt(this.#kube, live, deployment.metadata));
    if (live && !adopted && this.#standing(deployment, live, credentials)) return;
    // The keys of an orphan may be known to anybody.
    const known = adopted ? undefined : live;
    await this.#kube.apply(resources.secrets, secretOf(deployment, this.#wanted(known, credentials)), { manager, force: true });
  }

  /** True when nothing is to be written: it is as wanted, or not ours to write. */
  #standing({ metadata }: MoEDeployment, live: KubeObject, credentials: NatsEntries): boolean {
    if (!isOwned(live, metadata.uid)) return true;
    const have = entriesOf(live);
    const wanted = this.#wanted(live, credentials);
    return [telemetrySecretEntries.keys, ...natsEntries].every((entry) => have[entry] === wanted[entry]);
  }

  #wanted(live: KubeObject | undefined, credentials: NatsEntries): Entries {
    const now = this.#now().getTime();
    const keys = rotatedTelemetryKeys(keysIn(live), now, () => freshKey(now));
    return { [telemetrySecretEntries.keys]: encodeTelemetryKeys(keys), ...credentials };
  }

  /** None where none are needed, or are not there: the connection says what is missing, and the keys do not wait for it. */
  async #credentials({ metadata, spec }: MoEDeployment): Promise<NatsEntries> {
    const source = this.#nats.source(metadata, spec);
    if (source === undefined) return {};
    const now = this.#now().getTime();
    const key = JSON.stringify(source);
    const known = this.#entries.get(metadata.uid);
    if (known?.source === key && known.until > now) return known.entries;
    try {
      const entries = await this.#nats.entries(source);
      this.#entries.set(metadata.uid, { source: key, entries, until: now + rereadMs });
      return entries;
    } catch (caught) {
      this.#entries.delete(metadata.uid);
      if (hasCode(caught, ...credentialProblems)) return {};
      throw caught;
    }
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
    this.#entries.delete(uid);
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
