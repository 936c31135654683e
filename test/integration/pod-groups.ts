// The CRDs of schedulers that know groups of pods, for tests that install them: that of the coscheduling plugin as its module has it, that
// of Volcano with the fields that its module's types have. Modules are read and never built.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import type { KubeObject } from "../../operator/kube/kube.ts";
import { type GoModule, moduleFolder } from "../kit/processes/go-module.ts";

export const modules = {
  coscheduling: { module: "sigs.k8s.io/scheduler-plugins@v0.34.7", sum: "h1:GENSA4rKpCKBrPvNSo2AV2QHU7j3a6LT14kNlHhXfeg=" },
  volcano: { module: "volcano.sh/apis@v1.12.1", sum: "h1:yq5dVj/g21vnWObCIKsJKPhMoThpzDrHDD/GMouYVxk=" },
} as const satisfies Record<string, GoModule>;

export const documents = (file: string): KubeObject[] => parseAllDocuments(readFileSync(file, "utf8")).map((one) => one.toJS());

export const coschedulingCrd = async (): Promise<KubeObject[]> =>
  documents(join(await moduleFolder(modules.coscheduling), "manifests/coscheduling/crd.yaml"));

/** What Volcano's own CRD has of the fields that are set here; anything else would be refused, since a CRD has no other. */
export const volcanoCrd = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "podgroups.scheduling.volcano.sh" },
  spec: {
    group: "scheduling.volcano.sh",
    scope: "Namespaced",
    names: { kind: "PodGroup", listKind: "PodGroupList", plural: "podgroups", singular: "podgroup" },
    versions: [
      {
        name: "v1beta1",
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: "object",
            properties: {
              spec: {
                type: "object",
                properties: {
                  minMember: { type: "integer", format: "int32" },
                  queue: { type: "string", default: "default" },
                  priorityClassName: { type: "string" },
                },
              },
            },
          },
        },
      },
    ],
  },
};
