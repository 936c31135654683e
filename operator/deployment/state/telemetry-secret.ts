// The telemetry Secret that workers mount: keys that sign load messages, rotated here, and their NATS credentials: a user of their own, or a
// copy of the Secret that the spec names, whose type is checked first. Pods serve without it, but nobody believes their load.
import { randomBytes } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { natsEntries } from "../../../crds/nats-access.ts";
import {
  decodeTelemetryKeys,
  encodeTelemetryKeys,
  rotatedTelemetryKeys,
  type TelemetryKey,
  type TelemetryKeys,
  telemetryKeyBytes,
  telemetrySecretEntries,
  telemetrySecretName,
} from "../../../crds/telemetry-keys.ts";
import { beforeWrite, isOrphan, isOwned, manager } from "../../kube/adoption.ts";
import { hasCode } from "../../kube/errors.ts";
import type { Informers } from "../../kube/informers.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../../kube/kube.ts";
import { objectLabels, ownerOf } from "../objects/context.ts";
import type { Deployments } from "../ports.ts";
import { credentialProblems, issuedEntry, type NatsCredentials, type NatsEntries } from "./nats-credentials.ts";
import type { Records } from "./records.ts";

/** Nobody reports changes of the credentials' Secret, so that it is read again after this. */
const rereadMs = 30_000;

export interface TelemetrySecretsOptions {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly nats: NatsCredentials;
  readonly records: Records;
  readonly now: () => Date;
}

type Entries = Readonly<Record<string, string>>;
type KeysFound = ReturnType<Deployments["telemetryKeys"]>;

export class TelemetrySecrets {
  readonly #kube: Kube;
  readonly #informers: Informers;
  readonly #nats: NatsCredentials;
  readonly #now: () => Date;
  readonly #records: Records;

  constructor({ kube, informers, nats, records, now }: TelemetrySecretsOptions) {
    this.#kube = kube;
    this.#informers = informers;
    this.#nats = nats;
    this.#records = records;
    this.#now = now;
  }

  /** Throws the API server's refusal. Credentials that are unknown now stay as they are. */
  async ensure(deployment: MoEDeployment, credentials: NatsEntries | undefined): Promise<void> {
    const ref = refOf(deployment);
    const cached = this.#informers.get("secrets", ref);
    if (cached && !isOrphan(cached.metadata, deployment.metadata.name) && this.#isCurrent(deployment, cached, credentials)) return;
    // The cache may lack a key that was just written, so that a second would follow.
    const { live, adopt } = await beforeWrite(this.#kube, resources.secrets, ref, deployment.metadata);
    if (live && !adopt && this.#isCurrent(deployment, live, credentials)) return;
    // Anybody may know the keys of an orphan.
    const known = adopt ? undefined : live;
    await this.#kube.apply(resources.secrets, secretOf(deployment, this.#wanted(known, credentials)), { manager, force: true });
  }

  /** Nothing to write: it is up to date, or not ours. */
  #isCurrent({ metadata }: MoEDeployment, live: KubeObject, credentials: NatsEntries | undefined): boolean {
    if (!isOwned(live, metadata.uid)) return true;
    const have = entriesOf(live);
    const wanted = this.#wanted(live, credentials);
    return [telemetrySecretEntries.keys, ...natsEntries].every((entry) => have[entry] === wanted[entry]);
  }

  #wanted(live: KubeObject | undefined, credentials = live && natsIn(live)): Entries {
    const now = this.#now().getTime();
    const keys = rotatedTelemetryKeys(keysIn(live), now, () => freshKey(now));
    return { [telemetrySecretEntries.keys]: encodeTelemetryKeys(keys), ...credentials };
  }

  /** Missing credentials do not delay the keys; the connection reports them. */
  async credentials({ metadata, spec }: MoEDeployment): Promise<NatsEntries> {
    const now = this.#now().getTime();
    const key = JSON.stringify(spec.telemetry.nats);
    const record = this.#records.open(metadata);
    const known = record.credentials;
    if (known?.source === key && known.until > now) return known.entries;
    try {
      const live = this.#informers.get("secrets", { namespace: metadata.namespace, name: telemetrySecretName(metadata.name) });
      const former = live && isOwned(live, metadata.uid) ? entriesOf(live)[issuedEntry] : undefined;
      const entries = await this.#nats.entries(metadata, spec, former);
      record.credentials = { source: key, entries, until: now + rereadMs };
      return entries;
    } catch (caught) {
      record.credentials = undefined;
      if (hasCode(caught, ...credentialProblems)) return {};
      throw caught;
    }
  }

  keys(ref: Ref, uid: string): KeysFound {
    const name = telemetrySecretName(ref.name);
    const live = this.#informers.get("secrets", { namespace: ref.namespace, name });
    if (!live) return { problem: `Secret ${name} is not there yet` };
    if (!isOwned(live, uid)) return { problem: `Secret ${name} has another owner or none; delete or rename it` };
    return readKeys(live);
  }
}

/** Each version is parsed once. */
const read = new WeakMap<KubeObject, KeysFound>();

function readKeys(live: KubeObject): KeysFound {
  const found = read.get(live) ?? parseKeys(live);
  read.set(live, found);
  return found;
}

function parseKeys(live: KubeObject): KeysFound {
  try {
    return { keys: decodeTelemetryKeys(entriesOf(live)[telemetrySecretEntries.keys] ?? "") };
  } catch (caught) {
    return { problem: `Secret ${live.metadata.name}: ${AppError.from(caught).message}` };
  }
}

/** Unreadable keys are replaced. */
function keysIn(live: KubeObject | undefined): TelemetryKeys {
  return (live && readKeys(live).keys) ?? [];
}

function freshKey(madeMs: number): TelemetryKey {
  return { id: randomBytes(8).toString("hex"), secret: randomBytes(telemetryKeyBytes), madeMs };
}

function refOf({ metadata }: MoEDeployment): Ref {
  return { namespace: metadata.namespace, name: telemetrySecretName(metadata.name) };
}

function entriesOf(secret: KubeObject): Entries {
  const data = (secret.data ?? {}) as Record<string, string>;
  return Object.fromEntries(Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text, "base64").toString("utf8")]));
}

const natsIn = (live: KubeObject): NatsEntries =>
  Object.fromEntries(Object.entries(entriesOf(live)).filter(([entry]) => natsEntries.includes(entry)));

function secretOf(deployment: MoEDeployment, entries: Entries): KubeObject {
  const data = Object.fromEntries(Object.entries(entries).map(([entry, text]) => [entry, Buffer.from(text).toString("base64")]));
  const metadata = {
    ...refOf(deployment),
    labels: objectLabels(deployment.metadata.name, "shared"),
    ownerReferences: [ownerOf(deployment)],
  };
  return { apiVersion: "v1", kind: "Secret", metadata, type: "Opaque", data };
}
