// The operator's permissions by the rows of kube/resources.ts: the source of the chart's roles (npm run gen) and their test. Pure.
import { type Right, rows, type Scope } from "./kube/resources.ts";

export interface Rule extends Omit<Right, "subresource"> {
  readonly scope: Scope;
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
}

const together = (a: readonly string[], b: readonly string[]): string[] => [...new Set([...a, ...b])];

function allRules(): Rule[] {
  const rules = new Map<string, Rule>();
  for (const { apiVersion, plural, rights = [] } of rows)
    for (const { subresource, scope = "watched", ...right } of rights) {
      const apiGroups = [apiVersion.includes("/") ? apiVersion.slice(0, apiVersion.indexOf("/")) : ""];
      const resources = [subresource ? `${plural}/${subresource}` : plural];
      const same = rules.get(right.why) ?? { apiGroups: [], resources: [] };
      const both = { apiGroups: together(same.apiGroups, apiGroups), resources: together(same.resources, resources) };
      rules.set(right.why, { ...right, scope, ...both });
    }
  return [...rules.values()];
}

export const operatorRules: readonly Rule[] = allRules();

export const rulesOf = (scope: Scope): Rule[] => operatorRules.filter((rule) => rule.scope === scope);
