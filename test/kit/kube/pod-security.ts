// The restricted Pod Security level, as the Pod Security Standards give it: what of a pod's spec breaks it. Pure. Kubernetes itself
// enforces it in e2e namespaces; this says it of rendered objects, without a cluster.

interface SecurityContext {
  readonly privileged?: boolean;
  readonly allowPrivilegeEscalation?: boolean;
  readonly runAsNonRoot?: boolean;
  readonly runAsUser?: number;
  readonly procMount?: string;
  readonly capabilities?: { readonly add?: readonly string[]; readonly drop?: readonly string[] };
  readonly seccompProfile?: { readonly type: string };
  readonly appArmorProfile?: { readonly type: string };
  readonly seLinuxOptions?: { readonly type?: string; readonly user?: string; readonly role?: string };
  readonly windowsOptions?: { readonly hostProcess?: boolean };
  readonly sysctls?: readonly { readonly name: string }[];
}

interface Container {
  readonly name: string;
  readonly ports?: readonly { readonly hostPort?: number }[];
  readonly securityContext?: SecurityContext;
}

export interface PodSpec {
  readonly hostNetwork?: boolean;
  readonly hostPID?: boolean;
  readonly hostIPC?: boolean;
  readonly securityContext?: SecurityContext;
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly ephemeralContainers?: readonly Container[];
  readonly volumes?: readonly { readonly name: string; readonly [source: string]: unknown }[];
}

const volumeKinds = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
const seccompTypes = ["RuntimeDefault", "Localhost"];
const safeSysctls =
  /^(kernel\.shm_rmid_forced|net\.ipv4\.(ip_local_(port_range|reserved_ports)|ip_unprivileged_port_start|tcp_\w+|ping_group_range))$/;
const seLinuxTypes = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/** Empty when the pod is allowed. Each fault names the container or the volume. */
export function restrictedFaults(pod: PodSpec): string[] {
  const containers = [...pod.containers, ...(pod.initContainers ?? []), ...(pod.ephemeralContainers ?? [])];
  const shared = (["hostNetwork", "hostPID", "hostIPC"] as const).filter((field) => pod[field] === true).map((field) => `pod: ${field}`);
  return [
    ...shared,
    ...contextFaults(pod.securityContext ?? {}).map((fault) => `pod: ${fault}`),
    ...volumeFaults(pod.volumes ?? []),
    ...containers.flatMap((container) =>
      containerFaults(container, pod.securityContext ?? {}).map((fault) => `${container.name}: ${fault}`),
    ),
  ];
}

function volumeFaults(volumes: NonNullable<PodSpec["volumes"]>): string[] {
  return volumes.flatMap(({ name, ...source }) => {
    const kinds = Object.keys(source).filter((kind) => !volumeKinds.includes(kind));
    return kinds.map((kind) => `volume ${name}: ${kind}`);
  });
}

/** The faults in a pod's context and in a container's. */
function contextFaults(context: SecurityContext): string[] {
  const { seLinuxOptions: seLinux } = context;
  const wrong: Readonly<Record<string, boolean>> = {
    privileged: context.privileged === true,
    hostProcess: context.windowsOptions?.hostProcess === true,
    "runAsNonRoot is false": context.runAsNonRoot === false,
    "runAsUser is 0": context.runAsUser === 0,
    "seccompProfile is none of the allowed": context.seccompProfile !== undefined && !seccompTypes.includes(context.seccompProfile.type),
    "appArmorProfile is Unconfined": context.appArmorProfile?.type === "Unconfined",
    "seLinuxOptions are not the container's":
      seLinux !== undefined && (!seLinuxTypes.includes(seLinux.type ?? "") || !!seLinux.user || !!seLinux.role),
    "procMount is not Default": (context.procMount ?? "Default") !== "Default",
    "an unsafe sysctl": (context.sysctls ?? []).some(({ name }) => !safeSysctls.test(name)),
  };
  return Object.keys(wrong).filter((fault) => wrong[fault]);
}

function containerFaults({ ports = [], securityContext: own = {} }: Container, pod: SecurityContext): string[] {
  const { add = [], drop = [] } = own.capabilities ?? {};
  const wrong: Readonly<Record<string, boolean>> = {
    "allowPrivilegeEscalation is not false": own.allowPrivilegeEscalation !== false,
    "runAsNonRoot is not true": (own.runAsNonRoot ?? pod.runAsNonRoot) !== true,
    "no seccompProfile": (own.seccompProfile ?? pod.seccompProfile) === undefined,
    "capabilities are not dropped": !drop.includes("ALL"),
    "capabilities are added": add.some((name) => name !== "NET_BIND_SERVICE"),
    "a host port": ports.some(({ hostPort }) => (hostPort ?? 0) !== 0),
  };
  return [...contextFaults(own), ...Object.keys(wrong).filter((fault) => wrong[fault])];
}

/** Pod specs in rendered objects: pods, and whatever has a pod template. */
export function podSpecs(objects: readonly any[]): { readonly where: string; readonly spec: PodSpec }[] {
  return objects.flatMap((object) => {
    const spec = object.kind === "Pod" ? object.spec : (object.spec?.template?.spec ?? object.spec?.jobTemplate?.spec?.template?.spec);
    return spec?.containers ? [{ where: `${object.kind} ${object.metadata.name}`, spec }] : [];
  });
}
