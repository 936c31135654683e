// The check of the restricted level finds each thing that breaks it, one at a time on a pod that is allowed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type PodSpec, podSpecs, restrictedFaults } from "./pod-security.ts";

const context = { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } };
const pod = {
  securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: "RuntimeDefault" } },
  containers: [{ name: "one", securityContext: context }],
  volumes: [{ name: "tmp", emptyDir: {} }],
};
const container = (change: object) => ({ ...pod, containers: [{ name: "one", securityContext: { ...context, ...change } }] });

test("a pod of the restricted level has no faults, whichever of pod and container says it", () => {
  assert.deepEqual(restrictedFaults(pod), []);
  const own = { runAsNonRoot: true, seccompProfile: { type: "Localhost" }, capabilities: { drop: ["ALL"], add: ["NET_BIND_SERVICE"] } };
  assert.deepEqual(restrictedFaults({ ...container(own), securityContext: {} }), []);
});

const broken: Record<string, [PodSpec, string]> = {
  "the host's network": [{ ...pod, hostNetwork: true }, "pod: hostNetwork"],
  "the host's processes": [{ ...pod, hostPID: true }, "pod: hostPID"],
  "the host's memory": [{ ...pod, hostIPC: true }, "pod: hostIPC"],
  "a path of the host": [{ ...pod, volumes: [{ name: "v", hostPath: { path: "/" } }] }, "volume v: hostPath"],
  "a volume of another kind": [{ ...pod, volumes: [{ name: "v", nfs: {} }] }, "volume v: nfs"],
  "a port of the host": [
    { ...pod, containers: [{ ...container({}).containers[0], name: "one", ports: [{ hostPort: 80 }] }] },
    "one: a host port",
  ],
  "root by number": [{ ...pod, securityContext: { ...pod.securityContext, runAsUser: 0 } }, "pod: runAsUser is 0"],
  "root in a container": [container({ runAsNonRoot: false }), "one: runAsNonRoot is false"],
  "nobody says non-root": [{ ...pod, securityContext: { seccompProfile: { type: "RuntimeDefault" } } }, "one: runAsNonRoot is not true"],
  "no seccomp": [{ ...pod, securityContext: { runAsNonRoot: true } }, "one: no seccompProfile"],
  "seccomp off": [container({ seccompProfile: { type: "Unconfined" } }), "one: seccompProfile is none of the allowed"],
  escalation: [container({ allowPrivilegeEscalation: undefined }), "one: allowPrivilegeEscalation is not false"],
  privileged: [container({ privileged: true }), "one: privileged"],
  "capabilities kept": [container({ capabilities: { drop: ["NET_RAW"] } }), "one: capabilities are not dropped"],
  "capabilities added": [container({ capabilities: { drop: ["ALL"], add: ["SYS_ADMIN"] } }), "one: capabilities are added"],
  "a raw /proc": [container({ procMount: "Unmasked" }), "one: procMount is not Default"],
  "an unsafe sysctl": [
    { ...pod, securityContext: { ...pod.securityContext, sysctls: [{ name: "kernel.msgmax" }] } },
    "pod: an unsafe sysctl",
  ],
  "AppArmor off": [container({ appArmorProfile: { type: "Unconfined" } }), "one: appArmorProfile is Unconfined"],
  "another SELinux type": [container({ seLinuxOptions: { type: "spc_t" } }), "one: seLinuxOptions are not the container's"],
  "a Windows host process": [container({ windowsOptions: { hostProcess: true } }), "one: hostProcess"],
  "an init container": [{ ...pod, initContainers: [{ name: "init" }] }, "init: allowPrivilegeEscalation is not false"],
};
for (const [name, [spec, fault]] of Object.entries(broken)) {
  test(`${name} breaks the restricted level`, () => assert.ok(restrictedFaults(spec).includes(fault), restrictedFaults(spec).join("; ")));
}

test("pods are found in whatever makes them", () => {
  const template = { spec: { template: { spec: pod } } };
  const objects = [
    { kind: "Pod", metadata: { name: "p" }, spec: pod },
    { kind: "Deployment", metadata: { name: "d" }, ...template },
    { kind: "CronJob", metadata: { name: "c" }, spec: { jobTemplate: template } },
    { kind: "Service", metadata: { name: "s" }, spec: {} },
  ];
  assert.deepEqual(
    podSpecs(objects).map(({ where }) => where),
    ["Pod p", "Deployment d", "CronJob c"],
  );
});
