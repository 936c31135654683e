// Checks the CRDs: the API server silently drops fields that an older CRD lacks.
import { z } from "zod";
import { customResourceDefinition, kinds } from "../../../crds/index.ts";
import { resources } from "../../kube/kube.ts";
import { listed } from "../../views/format.ts";
import { type Check, type Context, fail, type Outcome, ok, warn } from "./check.ts";

const namedMax = 4;

const crdSchema = z.object({
  spec: z.object({
    versions: z.array(
      z.object({
        name: z.string(),
        served: z.boolean(),
        storage: z.boolean(),
        schema: z.object({ openAPIV3Schema: z.unknown() }).optional(),
      }),
    ),
  }),
  status: z.object({ conditions: z.array(z.object({ type: z.string(), status: z.string() })).default([]) }).prefault({}),
});

type Tree = Readonly<Record<string, unknown>>;
const isTree = (value: unknown): value is Tree => typeof value === "object" && value !== null && !Array.isArray(value);

interface Differences {
  /** Paths that only this version has. */
  readonly lacking: readonly string[];
  /** Paths that only the cluster has. */
  readonly foreign: readonly string[];
  /** Fields with other bounds, rules or defaults; descriptions do not count. */
  readonly other: readonly string[];
}

export function compareSchemas(ours: unknown, theirs: unknown, path = ""): Differences {
  if (!isTree(ours) || !isTree(theirs)) return { lacking: [], foreign: [], other: [] };
  const [mine, yours] = [childrenOf(ours), childrenOf(theirs)];
  const at = (name: string): string => (path === "" ? name : `${path}.${name}`);
  const inner = Object.keys(mine)
    .filter((name) => name in yours)
    .map((name) => compareSchemas(mine[name], yours[name], at(name)));
  const differs = JSON.stringify(sorted(bare(ours))) !== JSON.stringify(sorted(bare(theirs)));
  return {
    lacking: [
      ...Object.keys(mine)
        .filter((name) => !(name in yours))
        .map(at),
      ...inner.flatMap(({ lacking }) => lacking),
    ],
    foreign: [
      ...Object.keys(yours)
        .filter((name) => !(name in mine))
        .map(at),
      ...inner.flatMap(({ foreign }) => foreign),
    ],
    other: [...(differs ? [path === "" ? "the object" : path] : []), ...inner.flatMap(({ other }) => other)],
  };
}

function childrenOf({ properties, items }: Tree): Tree {
  if (isTree(properties)) return properties;
  return isTree(items) ? { "[]": items } : {};
}

function bare(schema: Tree): Tree {
  return Object.fromEntries(Object.entries(schema).filter(([key]) => !["properties", "items", "description"].includes(key)));
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (!isTree(value)) return value;
  return Object.fromEntries(
    Object.keys(value)
      .sort()
      .map((key) => [key, sorted(value[key])]),
  );
}

export function judgeCrd(
  kind: (typeof kinds)[number],
  object: unknown,
  { version, operators }: Pick<Context, "version" | "operators">,
): Outcome {
  const name = `${kind.plural}.enodia.dev`;
  const [operator] = operators ?? [];
  const upgrade = `upgrade the chart to ${version}, with crds.enabled; or use the enodia command of the cluster's version`;
  if (object === undefined) {
    return operator ? fail(`${name} is not there, so the operator cannot work`, upgrade) : ok(`${name} will come with the chart`);
  }
  const { spec, status } = crdSchema.parse(object);
  const stored = spec.versions.find((one) => one.name === "v1alpha1" && one.served);
  if (!stored) return fail(`${name} does not serve v1alpha1, but ${spec.versions.map((one) => one.name).join(", ")}`, upgrade);
  const established = status.conditions.some((one) => one.type === "Established" && one.status === "True");
  if (!established) return fail(`${name} is not established`, `kubectl describe crd ${name}`);
  const { lacking, foreign, other } = compareSchemas(ownSchema(kind), stored.schema?.openAPIV3Schema);
  const parts = [
    lacking.length > 0 ? `lacks ${listed(lacking, namedMax)}` : "",
    foreign.length > 0 ? `has ${listed(foreign, namedMax)}, which this version does not know` : "",
    other.length > 0 ? `has other bounds, rules or defaults of ${listed(other, namedMax)}` : "",
  ].filter((part) => part !== "");
  if (parts.length === 0) return ok(`${name} is that of ${version}`);
  // The CRD is outdated where the operator has this version; else this command may be.
  return (operator?.version === version ? fail : warn)(`${name} is not that of ${version}: it ${parts.join("; ")}`, upgrade);
}

const ownSchema = (kind: (typeof kinds)[number]): unknown =>
  crdSchema.parse(customResourceDefinition(kind)).spec.versions[0]?.schema?.openAPIV3Schema;

export const crds: Check = {
  name: "CRDs",
  when: "always",
  run: (context) =>
    Promise.all(
      kinds.map(async (kind) => {
        const ref = { namespace: "", name: `${kind.plural}.enodia.dev` };
        return judgeCrd(kind, await context.kube.get(resources.customResourceDefinitions, ref), context);
      }),
    ),
};
