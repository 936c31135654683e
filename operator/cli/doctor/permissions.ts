// Checks rights: the user's to install and to look, and the operator's by rbac.ts.
import { AppError } from "../../../crds/common.ts";
import type { Right } from "../../kube/access-review.ts";
import { installName } from "../../kube/resources.ts";
import { operatorRules, type Rule } from "../../rbac.ts";
import { listed } from "../../views/format.ts";
import { type Check, fail, missingRights, type OperatorFacts, type Outcome, ok, rightText, skip, warn } from "./check.ts";

const namedMax = 6;
const texts = (rights: readonly Right[]): string => listed(rights.map(rightText), namedMax);

const across = (group: string, resources: readonly string[], verb = "create"): Right[] =>
  resources.map((resource) => ({ group, resource, verb }));

/** The objects of the chart. */
function installRights(namespace: string): Right[] {
  const inside = (group: string, resources: readonly string[]): Right[] =>
    across(group, resources).map((right) => ({ ...right, namespace }));
  return [
    ...across("apiextensions.k8s.io", ["customresourcedefinitions"]),
    ...across("rbac.authorization.k8s.io", ["clusterroles", "clusterrolebindings"]),
    ...inside("rbac.authorization.k8s.io", ["roles", "rolebindings"]),
    ...inside("", ["serviceaccounts", "services", "secrets"]),
    ...inside("apps", ["deployments"]),
    ...inside("networking.k8s.io", ["networkpolicies"]),
    ...inside("policy", ["poddisruptionbudgets"]),
  ];
}

export const installing: Check = {
  name: "your rights to install",
  when: "before",
  run: async ({ transport }) => {
    const missing = await missingRights(transport, installRights("enodia-system"));
    if (missing.length === 0) return [ok("all that the chart makes may be made by you")];
    return [fail(`you may not ${texts(missing)}`, "install the chart as a cluster administrator")];
  },
};

/** What a person misses without a right. */
function lookingRights(namespace: string): readonly (readonly [Right, string])[] {
  const of = (group: string, resource: string, verb: string): Right => ({ group, resource, verb, namespace });
  return [
    [of("enodia.dev", "moedeployments", "list"), "enodia status shows nothing"],
    [of("enodia.dev", "expertplacements", "get"), "status, experts and plan explain have no plan"],
    [of("", "pods", "list"), "status and top have no pods"],
    [of("", "pods/log", "get"), "enodia logs and bundle have no logs"],
    [of("", "pods/proxy", "get"), "enodia top has no live figures"],
    [of("", "events", "list"), "status has no warnings of the cluster"],
    [{ group: "", resource: "nodes/proxy", verb: "get" }, "status has no column MEMORY"],
  ];
}

export const looking: Check = {
  name: "your rights to look",
  when: "always",
  run: async ({ transport, namespace }) => {
    const rights = lookingRights(namespace);
    const missing = await missingRights(
      transport,
      rights.map(([right]) => right),
    );
    if (missing.length === 0) return [ok(`status, top, logs and bundle may read what they need in ${namespace}`)];
    const lost = rights.filter(([right]) => missing.includes(right)).map(([right, without]) => `${rightText(right)} (${without})`);
    return [
      warn(`you may not ${listed(lost, namedMax)}`, "ask for the role view, and get on pods/proxy, pods/log and nodes/proxy beside it"),
    ];
  },
};

function rightsOf(rule: Rule, operator: OperatorFacts): Right[] {
  const places: readonly (string | undefined)[] =
    rule.scope === "release"
      ? [operator.namespace]
      : rule.scope === "watched" && operator.watched.length > 0
        ? operator.watched
        : [undefined];
  return rule.apiGroups.flatMap((group) =>
    rule.resources.flatMap((resource) =>
      rule.verbs.flatMap((verb) =>
        (rule.resourceNames ?? [undefined]).flatMap((named) => {
          const name = named === installName ? operator.name : named;
          return places.map((namespace) => ({ group, resource, verb, namespace, name }));
        }),
      ),
    ),
  );
}

export const operatorsRights: Check = {
  name: "the operator's rights",
  when: "after",
  run: async ({ transport, operators }) => Promise.all((operators ?? []).map((operator) => judgeOperator(transport, operator))),
};

async function judgeOperator(transport: Parameters<typeof missingRights>[0], operator: OperatorFacts): Promise<Outcome> {
  const user = `system:serviceaccount:${operator.namespace}:${operator.serviceAccount}`;
  // Rules behind a chart value may be off on purpose.
  const rights = operatorRules.filter(({ option }) => option === undefined).flatMap((rule) => rightsOf(rule, operator));
  try {
    const missing = await missingRights(transport, rights, user);
    if (missing.length === 0) return ok(`${user} has all ${rights.length} that it needs`);
    const chart = `helm upgrade ${operator.name} of this version, with rbac.create; or give the role what is missing`;
    return fail(`${user} may not ${texts(missing)}`, chart);
  } catch (caught) {
    return skip(user, `you may not ask for the rights of others (${AppError.from(caught).message})`);
  }
}
