// Composes the deployment plane: what wakes a reconcile, and its interface to the rebalance plane.
import { apiVersion, labels } from "../../crds/common.ts";
import type { DownloadProgress } from "../../crds/download.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import { Applier } from "../kube/apply.ts";
import { type Controller, createController, type Observe, type Outcome } from "../kube/controller.ts";
import type { EventRecorder } from "../kube/events.ts";
import { type Grantee, missingGrant } from "../kube/grant.ts";
import { type Informers, PodOverlay } from "../kube/informers.ts";
import { type Kube, type KubeObject, keyOf, parseKey, type Ref, refOf } from "../kube/kube.ts";
import { type NamespaceClaims, Permission } from "../kube/permission.ts";
import type { Watched } from "../kube/resources.ts";
import { ServerClock } from "../kube/server-clock.ts";
import { StatusWriter } from "../kube/status-writer.ts";
import { wake, wakeByNodes } from "../kube/wake.ts";
import { ticksBeside } from "../kube/workqueue.ts";
import { Authorities, type AuthoritiesOptions, subjectOf } from "../pki/authorities.ts";
import { sweepAuthorities, sweepMs } from "../pki/authority-sweep.ts";
import { certifiedDeployment } from "../pki/certified.ts";
import { Identities } from "../pki/identity.ts";
import type { Settings } from "./objects/context.ts";
import type { Deployments, Rebalance } from "./ports.ts";
import { Reconciler } from "./reconcile.ts";
import { AcceptedSpecs } from "./state/accepted-specs.ts";
import { askProgress, DownloadPolls, type ProgressQuestion } from "./state/download-progress.ts";
import { NatsCredentials } from "./state/nats-credentials.ts";
import { NatsIssuer } from "./state/nats-issuer.ts";
import { Records } from "./state/records.ts";
import { TelemetrySecrets } from "./state/telemetry-secret.ts";
import { deploymentStatus } from "./status-kind.ts";

/** Concurrent reconciles, mostly waiting for the API server; it has twice as many connections. */
const workers = 16;
const resyncMs = 60_000;
/** A namespace with an unreliable copy is retried after this. */
const untrustedMs = 1_000;

export interface DeploymentPlane<R extends Rebalance> {
  readonly controller: Controller;
  readonly rebalance: R;
  stop(): Promise<void>;
}

export interface DeploymentPlaneOptions<R extends Rebalance> {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly events: EventRecorder;
  readonly settings: Settings & { readonly grantee?: Grantee | undefined };
  /** Makes the other plane, which asks this one for identities and credentials. */
  readonly rebalance: (deployments: Deployments) => R;
  /** The namespaces of this install; unset = all. */
  readonly claims?: NamespaceClaims;
  /** The API server's time; without it this machine's. */
  readonly clock?: Pick<ServerClock, "now">;
  /** A test's, for ages too. */
  readonly now?: () => Date;
  /** How to poll download pods; the default uses TLS. */
  readonly ask?: (question: ProgressQuestion) => Promise<DownloadProgress | undefined>;
  /** Also gets CAs that could not be checked for deletion, and why NATS has no keys. */
  readonly onError?: (error: unknown) => void;
  readonly observe?: Observe;
}

export function createDeploymentPlane<R extends Rebalance>(options: DeploymentPlaneOptions<R>): DeploymentPlane<R> {
  const { kube, informers, events, settings } = options;
  const now = options.now ?? (options.clock ?? new ServerClock()).now;
  const ticks = ticksBeside(options.now);
  const event: AuthoritiesOptions["event"] = ({ metadata }, type, reason, note) => {
    const { name, namespace, uid } = metadata;
    events.record({ regarding: { apiVersion, kind: "MoEDeployment", namespace, name, uid }, type, reason, note });
  };
  const records = new Records();
  const { namespace, natsSecrets: secrets } = settings;
  const issuer = secrets === undefined ? undefined : new NatsIssuer({ kube, namespace, secrets, now });
  const nats = new NatsCredentials(kube, settings, issuer);
  const telemetry = new TelemetrySecrets({ kube, informers, nats, records, now });
  const authorities = new Authorities({ of: certifiedDeployment, kube, informers, namespace: settings.namespace, event, now });
  const identities = new Identities({ of: certifiedDeployment, kube, informers, authorities, now });
  const status = new StatusWriter(deploymentStatus, { kube, event, live: (ref) => informers.get("moeDeployments", ref), now, ticks });
  const rebalance = options.rebalance({
    identity: (ref, uid) => identities.operator(ref, uid),
    event,
    telemetryKeys: (ref, uid) => telemetry.keys(ref, uid),
    nats: (ref, spec) => nats.server(ref, spec),
    natsAccess: (credentials) => nats.access(credentials),
  });
  const wakes = (ref: Ref): void => controller.queue.add(keyOf(ref));
  const reconciler = new Reconciler({
    ...{ kube, informers, identities, telemetry, status, records, rebalance, settings, event, now, ticks },
    applier: new Applier({ of: certifiedDeployment, kube, live: (resource, ref) => informers.live(resource, ref), now: ticks }),
    accepted: new AcceptedSpecs(kube, informers, records),
    overlay: new PodOverlay((pod) => informers.covers("pods", pod), ticks),
    polls: new DownloadPolls({ ask: options.ask ?? askProgress, onReport: wakes, records, now: ticks }),
  });
  const permission = new Permission({ informers, claims: options.claims, event });
  const controller = createController({
    name: "moedeployment",
    workers,
    resyncMs,
    keys: () => informers.list("moeDeployments").map((object) => keyOf(refOf(object))),
    reconcile: async (key): Promise<Outcome> => {
      const ref = parseKey(key);
      const may = permission.of(ref);
      if (may === "granted") return reconciler.reconcile(ref);
      if (may === "wait") {
        const object = informers.get("moeDeployments", ref);
        const missing = object && missingGrant(informers, settings.grantee, object);
        if (missing) await status.refuse(object, missing);
        return { requeueAfterMs: untrustedMs };
      }
      reconciler.forget(ref);
      return {}; // until the claim changes hands
    },
    ...(options.observe ? { observe: options.observe } : {}),
  });
  permission.onChange((key) => controller.queue.add(key));
  rebalance.onChange(wakes);
  const stopWaking = wakeAll({ informers, identities, status }, wakes);
  const stopSweeping = sweepRegularly(options);
  const stopIssuing = issuer?.keep((error) => options.onError?.(error));
  return {
    controller,
    rebalance,
    stop: async () => {
      stopWaking();
      stopIssuing?.();
      await Promise.all([controller.stop(), stopSweeping()]);
    },
  };
}

/** Returns the function that stops it. */
function sweepRegularly({ kube, informers, onError }: Pick<DeploymentPlaneOptions<Rebalance>, "kube" | "informers" | "onError">) {
  let sweeping: Promise<void> | undefined;
  const timer = setInterval(() => {
    sweeping ??= sweepAuthorities({ kube, informers })
      .catch((error) => onError?.(error))
      .finally(() => {
        sweeping = undefined;
      });
  }, sweepMs);
  return async (): Promise<void> => {
    clearInterval(timer);
    await sweeping;
  };
}

interface Sources {
  readonly informers: Informers;
  readonly identities: Identities;
  readonly status: StatusWriter<MoEDeploymentStatus>;
}

/** Returns the function that stops it. */
function wakeAll({ informers, identities, status }: Sources, add: (ref: Ref) => void): () => void {
  /** Wakes a deployment and the owner of a green one. */
  const both = (ref: Ref): void => {
    add(ref);
    const behind = informers.get("moeDeployments", ref)?.metadata.labels?.[labels.greenOf];
    if (behind) add({ namespace: ref.namespace, name: behind });
  };
  const onOwned = (kind: Watched, object: KubeObject): void => {
    if (kind === "secrets") identities.changed(object);
  };
  const wrote = (object: KubeObject): boolean => status.wrote(object);
  const stops = [
    // Every change of a green deployment, its status included, wakes its owner.
    informers.onChange("moeDeployments", ({ metadata }) => {
      const behind = metadata.labels?.[labels.greenOf];
      if (behind) add({ namespace: metadata.namespace ?? "", name: behind });
    }),
    wake({ of: certifiedDeployment, informers, objects: "moeDeployments", add: both, wrote, onOwned }),
    informers.onChange("authorities", (secret) => {
      identities.changed(secret);
      const subject = subjectOf(secret);
      if (subject?.of === certifiedDeployment) add(subject.ref);
    }),
    wakeByNodes(informers, both),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}
